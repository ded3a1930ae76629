// SPDX-License-Identifier: Apache-2.0
// A pool of sleeping threads that share the indices of one loop at a time.
//
// Why not OpenMP: PyTorch brings its own OpenMP runtime, and two of them in one process spin against each other (a
// tenfold slowdown was measured). Here idle threads sleep; they spin for microseconds only, to bridge two loops of one call.
//
// Which thread handles which index is not defined. Results are the same for any number of threads as long as the
// work of an index writes only memory of that index.
#pragma once

#if !defined(_WIN32)
#include <unistd.h>
#endif

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>

class ThreadPool {
 public:
  static constexpr int kMaxThreads = 256;

  // Calls task(index, slot) once for every index in [0, count), on the calling thread and up to `threads` - 1 others.
  // `slot`, in [0, threads), differs between concurrent calls (for scratch memory). The task must not throw.
  // A call made while the pool is busy (from a task, or from another thread) runs on its own thread alone.
  template <class Task>
  static void run(int threads, int64_t count, Task&& task) {
    using Body = std::remove_reference_t<Task>;
    Job job;
    job.count = count;
    job.context = const_cast<void*>(static_cast<const void*>(&task));
    job.call = [](void* context, int64_t index, int slot) { (*static_cast<Body*>(context))(index, slot); };
    const int64_t useful = count < kMaxThreads ? count : kMaxThreads;
    if (threads > useful) threads = static_cast<int>(useful);
    if (threads <= 1) {
      work(job, 0);
      return;
    }
    ThreadPool& pool = instance();
    if (pool.busy_.exchange(true, std::memory_order_acquire)) {
      work(job, 0);
      return;
    }
    pool.share(job, threads - 1);
    pool.busy_.store(false, std::memory_order_release);
  }

 private:
  struct Job {
    void (*call)(void* context, int64_t index, int slot);
    void* context;
    int64_t count;
    std::atomic<int64_t> next{0};
  };

  static void work(Job& job, int slot) {
    for (;;) {
      const int64_t index = job.next.fetch_add(1, std::memory_order_relaxed);
      if (index >= job.count) return;
      job.call(job.context, index, slot);
    }
  }

  // Never destroyed: its threads sleep until the process ends. After a fork the child holds none of the parent's threads
  // and perhaps a locked mutex, so it starts a pool of its own.
  static ThreadPool& instance() {
    static std::atomic<ThreadPool*> current{nullptr};
    ThreadPool* pool = current.load(std::memory_order_acquire);
    if (pool != nullptr && pool->process_ == process_id()) return *pool;
    ThreadPool* fresh = new ThreadPool();
    if (current.compare_exchange_strong(pool, fresh)) return *fresh;
    delete fresh;  // another thread was first, and nothing has been started here yet
    return *pool;
  }

  void share(Job& job, int helpers) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (started_ < helpers && start_one()) {
    }
    if (helpers > started_) helpers = started_;
    job_ = &job;
    active_ = helpers;
    open_.store(helpers, std::memory_order_release);
    lock.unlock();
    for (int i = 0; i < helpers; ++i) wake_.notify_one();

    work(job, 0);

    lock.lock();
    active_ -= open_.exchange(0, std::memory_order_relaxed);  // do not wait for threads that have not started
    finished_.wait(lock, [this] { return active_ == 0; });
    job_ = nullptr;
  }

  bool start_one() {
    try {
      std::thread([this] { serve(); }).detach();
    } catch (const std::exception&) {
      return false;  // the system allows no more threads: fewer do the same work
    }
    ++started_;
    return true;
  }

  [[noreturn]] void serve() {
    std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
    for (;;) {
      for (int i = 0; i < kSpins && open_.load(std::memory_order_acquire) == 0; ++i) pause();
      lock.lock();
      wake_.wait(lock, [this] { return open_.load(std::memory_order_relaxed) > 0; });
      const int slot = open_.fetch_sub(1, std::memory_order_relaxed);
      Job& job = *job_;
      lock.unlock();
      work(job, slot);
      lock.lock();
      if (--active_ == 0) finished_.notify_one();
      lock.unlock();
    }
  }

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  static constexpr int kSpins = 200;  // about 10 microseconds

  // 0 on Windows, where processes do not fork.
  static int64_t process_id() {
#if defined(_WIN32)
    return 0;
#else
    return getpid();
#endif
  }

  const int64_t process_ = process_id();
  std::atomic<bool> busy_{false};
  std::mutex mutex_;
  std::condition_variable wake_, finished_;
  int started_ = 0;            // threads that exist; guarded by mutex_, as are the next two
  int active_ = 0;             // threads that have, or may still take, a part of the present job
  Job* job_ = nullptr;
  std::atomic<int> open_{0};   // parts of the present job not yet taken; written under mutex_
};
