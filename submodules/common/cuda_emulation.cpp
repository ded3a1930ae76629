// SPDX-License-Identifier: Apache-2.0
// Runs a kernel on the CPU: fibres in random order, one block after the other, and checks of every access to memory.
//
// The kernels are compiled with -fsanitize=thread, but not linked with its library: the functions that the compiler calls at every
// access, __tsan_read4 and so on, are the ones at the end of this file. With EMULATION_UNDER_SANITIZERS they are compiled for Address-
// and UBSanitizer instead, whose libraries then do the checks.
#include "cuda_emulation.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(EMULATION_UNDER_SANITIZERS)
#include <sanitizer/common_interface_defs.h>
#endif

extern "C" {
// Made by the linker: the section of all __shared__ variables, and this library in memory.
extern char __start_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern char __ehdr_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));
}

namespace emulation {
namespace {

constexpr unsigned kLanes = 32;
constexpr size_t kStackBytes = 256 << 10;
constexpr unsigned kMostThreads = 1024;

// ---------------------------------------------------------------------------------------------------------------------
// Fibres

struct Stack {
  const void* bottom = nullptr;
  size_t bytes = 0;
};

#if defined(__x86_64__)
struct Context {
  void* stack_pointer = nullptr;
  Stack stack;
};

// Saves the registers that a function must preserve, and continues where `to` was left.
extern "C" void emulation_switch(void** from, void* to);
asm(R"(
.text
.hidden emulation_switch
.globl emulation_switch
.type emulation_switch, @function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulation_switch, .-emulation_switch
)");

void jump(Context& from, Context& to) { emulation_switch(&from.stack_pointer, to.stack_pointer); }

void prepare(Context& context, char* stack, void (*entry)()) {
  // Six registers, the address to return to, and one word so that the stack is aligned as after a call.
  void** top = reinterpret_cast<void**>(stack + kStackBytes) - 2;
  top[0] = reinterpret_cast<void*>(entry);
  top[1] = nullptr;
  context.stack_pointer = top - 6;
  context.stack = {stack, kStackBytes};
}
#else
struct Context {
  ucontext_t context;
  Stack stack;
};

void jump(Context& from, Context& to) { swapcontext(&from.context, &to.context); }

void prepare(Context& context, char* stack, void (*entry)()) {
  getcontext(&context.context);
  context.context.uc_stack.ss_sp = stack;
  context.context.uc_stack.ss_size = kStackBytes;
  makecontext(&context.context, entry, 0);
  context.stack = {stack, kStackBytes};
}
#endif

// AddressSanitizer is told which stack the program runs on. `previous` gets that of the one before.
#if defined(EMULATION_UNDER_SANITIZERS)
void switch_to(Context& from, Context& to) {
  void* kept = nullptr;
  __sanitizer_start_switch_fiber(&kept, to.stack.bottom, to.stack.bytes);
  jump(from, to);
  __sanitizer_finish_switch_fiber(kept, nullptr, nullptr);
}
void arrive_first(Stack& previous) { __sanitizer_finish_switch_fiber(nullptr, &previous.bottom, &previous.bytes); }
#else
void switch_to(Context& from, Context& to) { jump(from, to); }
void arrive_first(Stack&) {}
#endif

enum class State { kReady, kAtBarrier, kAtWarpOperation, kDone };

struct Fibre {
  Context context;
  State state = State::kReady;
  Operation operation{};
  unsigned mask = 0, argument = 0;
  uint64_t value = 0, result = 0;
};

// Numbers from a seed (Steele et al. 2014, "SplitMix").
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t below(uint64_t limit) {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % limit;
  }

 private:
  uint64_t state_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Who accessed an address

struct Moment {
  uint32_t block = 0;
  uint32_t barriers = 0;    // passed by the block
  uint32_t warp_syncs = 0;  // passed by the warp, of all its lanes
  uint16_t thread = 0;
  bool atomic = false, known = false;
};

struct Cell {
  uintptr_t address = 0;  // 0: free
  Moment write, read, other_read;  // the last ones; other_read is by another thread than `read`
};

class History {
 public:
  History() { forget(); }
  void forget() {
    cells_.assign(1 << 12, Cell{});
    used_ = 0;
  }
  Cell& at(uintptr_t address) {
    if (2 * used_ >= cells_.size()) grow();
    Cell& cell = find(address);
    if (cell.address == 0) {
      cell.address = address;
      ++used_;
    }
    return cell;
  }

 private:
  Cell& find(uintptr_t address) {
    size_t place = address * 0x9e3779b97f4a7c15u >> 20;
    for (;; ++place) {
      Cell& cell = cells_[place & (cells_.size() - 1)];
      if (cell.address == address || cell.address == 0) return cell;
    }
  }
  void grow() {
    std::vector<Cell> old(2 * cells_.size());
    old.swap(cells_);
    for (const Cell& cell : old) {
      if (cell.address != 0) find(cell.address) = cell;
    }
  }
  std::vector<Cell> cells_;
  size_t used_ = 0;
};

// ---------------------------------------------------------------------------------------------------------------------
// The launch in progress

struct Range {
  uintptr_t begin, end;
};

struct Launch {
  void (*kernel)(const void*) = nullptr;
  const void* arguments = nullptr;
  Range argument_bytes{};
  std::vector<Range> buffers;  // in order
  Index grid{}, block{};
  unsigned threads = 0;        // of a block
  uint32_t block_number = 0;
  uint32_t barriers = 0;
  unsigned waiting = 0;        // at the barrier
  std::vector<uint32_t> warp_syncs;
  std::vector<Fibre> fibres;
  unsigned running = 0;
  Context scheduler;
  bool in_kernel = false;
  std::string error;
  History history;
};
Launch launch;
char* stacks = nullptr;

[[noreturn]] void give_up(const std::string& reason) {
  char place[96];
  std::snprintf(place, sizeof place, " (block %u, thread %u)", launch.block_number, launch.running);
  launch.error = reason + place;
  launch.in_kernel = false;
  switch_to(launch.fibres[launch.running].context, launch.scheduler);
  __builtin_unreachable();
}

void yield() {
  launch.in_kernel = false;
  switch_to(launch.fibres[launch.running].context, launch.scheduler);
}

void enter_fibre() {
  arrive_first(launch.scheduler.stack);
  launch.in_kernel = true;
  launch.kernel(launch.arguments);
  launch.in_kernel = false;
  launch.fibres[launch.running].state = State::kDone;
  yield();
  __builtin_unreachable();
}

Fibre& lane_of_warp(unsigned lane) { return launch.fibres[launch.running / kLanes * kLanes + lane]; }

template <class Visit>
void for_each_lane(unsigned mask, Visit&& visit) {
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) visit(static_cast<unsigned>(__builtin_ctz(rest)));
}

uint64_t result_of(unsigned lane, const Fibre& fibre) {
  uint64_t result = 0;
  switch (fibre.operation) {
    case Operation::kSynchronise:
      return 0;
    case Operation::kBallot:
      for_each_lane(fibre.mask, [&](unsigned other) { result |= uint64_t{lane_of_warp(other).value != 0} << other; });
      return result;
    case Operation::kMatch:
      for_each_lane(fibre.mask,
                    [&](unsigned other) { result |= uint64_t{lane_of_warp(other).value == fibre.value} << other; });
      return result;
    default:
      break;
  }
  unsigned source = lane;
  const unsigned argument = fibre.argument;
  if (fibre.operation == Operation::kShuffle) source = argument % kLanes;
  if (fibre.operation == Operation::kShuffleUp && argument <= lane) source = lane - argument;
  if (fibre.operation == Operation::kShuffleDown && lane + argument < kLanes) source = lane + argument;
  if (fibre.operation == Operation::kShuffleXor) source = lane ^ (argument % kLanes);
  if ((fibre.mask >> source & 1) == 0) give_up("a shuffle reads a lane outside its mask");
  return lane_of_warp(source).value;
}

}  // namespace

Index thread_index() {
  const unsigned x = launch.block.x, y = launch.block.y, t = launch.running;
  return {t % x, t / x % y, t / (x * y)};
}
Index block_index() {
  const unsigned x = launch.grid.x, y = launch.grid.y, b = launch.block_number;
  return {b % x, b / x % y, b / (x * y)};
}
Index block_size() { return launch.block; }
Index grid_size() { return launch.grid; }

void wait_for_block() {
  if (++launch.waiting < launch.threads) {
    launch.fibres[launch.running].state = State::kAtBarrier;
    yield();
    launch.in_kernel = true;
    return;
  }
  launch.waiting = 0;
  ++launch.barriers;
  for (Fibre& fibre : launch.fibres) fibre.state = State::kReady;
}

uint64_t warp_operation(Operation operation, unsigned mask, uint64_t value, unsigned argument) {
  const unsigned lane = launch.running % kLanes;
  Fibre& mine = launch.fibres[launch.running];
  if ((mask >> lane & 1) == 0) give_up("a thread is not in the mask of its own warp operation");
  mine.operation = operation;
  mine.mask = mask;
  mine.value = value;
  mine.argument = argument;
  mine.state = State::kAtWarpOperation;
  bool complete = true;
  for_each_lane(mask, [&](unsigned other) {
    if (launch.running / kLanes * kLanes + other >= launch.threads) give_up("a mask contains lanes outside the block");
    const Fibre& fibre = lane_of_warp(other);
    complete &= fibre.state == State::kAtWarpOperation && fibre.mask == mask && fibre.operation == operation;
  });
  if (!complete) {
    yield();
    launch.in_kernel = true;
    return mine.result;
  }
  for_each_lane(mask, [&](unsigned other) {
    Fibre& fibre = lane_of_warp(other);
    fibre.result = result_of(other, fibre);
  });
  for_each_lane(mask, [&](unsigned other) { lane_of_warp(other).state = State::kReady; });
  if (operation == Operation::kSynchronise && mask == ~0u) ++launch.warp_syncs[launch.running / kLanes];
  return mine.result;
}

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Checks

bool within(uintptr_t address, unsigned bytes, uintptr_t begin, uintptr_t end) {
  return begin <= address && address + bytes <= end;
}

bool is_shared(uintptr_t address, unsigned bytes) {
  return within(address, bytes, reinterpret_cast<uintptr_t>(__start_emulated_shared),
                reinterpret_cast<uintptr_t>(__stop_emulated_shared));
}

bool in_buffer(uintptr_t address, unsigned bytes) {
  const auto& buffers = launch.buffers;
  const auto after = std::upper_bound(buffers.begin(), buffers.end(), address,
                                      [](uintptr_t a, const Range& range) { return a < range.begin; });
  return after != buffers.begin() && within(address, bytes, (after - 1)->begin, (after - 1)->end);
}

bool conflict(const Moment& before, const Moment& now, bool shared) {
  if (!before.known || (before.atomic && now.atomic)) return false;
  if (before.block != now.block) return !shared;
  if (before.thread == now.thread || before.barriers != now.barriers) return false;
  const bool same_warp = before.thread / kLanes == now.thread / kLanes;
  return !(same_warp && before.warp_syncs != now.warp_syncs);
}

void check_race(uintptr_t address, bool writes, bool atomic, bool shared) {
  const unsigned thread = launch.running;
  const Moment now = {launch.block_number, launch.barriers, launch.warp_syncs[thread / kLanes],
                      static_cast<uint16_t>(thread), atomic, true};
  Cell& cell = launch.history.at(address);
  const bool reads_conflict = conflict(cell.read, now, shared) || conflict(cell.other_read, now, shared);
  if (conflict(cell.write, now, shared) || (writes && reads_conflict)) {
    const Moment& before = conflict(cell.write, now, shared) ? cell.write
                           : conflict(cell.read, now, shared) ? cell.read
                                                              : cell.other_read;
    char text[160];
    std::snprintf(text, sizeof text, "a race in %s memory: %s what block %u, thread %u accessed, with no barrier between",
                  shared ? "shared" : "global", writes ? "writes" : "reads", before.block, before.thread);
    give_up(text);
  }
  if (writes) {
    cell.write = now;
  } else {
    if (cell.read.block != now.block || cell.read.thread != now.thread) cell.other_read = cell.read;
    cell.read = now;
  }
}

void check(const void* pointer, unsigned bytes, bool writes, bool atomic = false) {
  if (!launch.in_kernel) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  const uintptr_t stack = reinterpret_cast<uintptr_t>(stacks) + launch.running * kStackBytes;
  if (within(address, bytes, stack, stack + kStackBytes)) return;
  if (address % std::min(bytes, 16u) != 0 && (bytes & (bytes - 1)) == 0) give_up("an access is not aligned to its size");
  const bool shared = is_shared(address, bytes);
  if (!shared && !in_buffer(address, bytes)) {
    const bool constant = within(address, bytes, reinterpret_cast<uintptr_t>(__ehdr_start), reinterpret_cast<uintptr_t>(_end)) ||
                          within(address, bytes, launch.argument_bytes.begin, launch.argument_bytes.end);
    if (constant && !writes) return;
    char text[96];
    std::snprintf(text, sizeof text, "%s %u bytes outside all buffers, at %p", writes ? "writes" : "reads", bytes, pointer);
    give_up(text);
  }
  if (bytes < 4) {
    for (unsigned i = 0; i < bytes; ++i) check_race(address + i, writes, atomic, shared);
  } else {
    for (unsigned i = 0; i < bytes; i += 4) check_race(address + i, writes, atomic, shared);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Scheduling

void start_block(uint32_t number) {
  launch.block_number = number;
  launch.barriers = 0;
  launch.waiting = 0;
  launch.warp_syncs.assign((launch.threads + kLanes - 1) / kLanes, 0);
  launch.fibres.assign(launch.threads, Fibre{});
  for (unsigned t = 0; t < launch.threads; ++t) prepare(launch.fibres[t].context, stacks + t * kStackBytes, enter_fibre);
  // Not by memset, which AddressSanitizer replaces by one that refuses the gaps between the variables.
  for (volatile char* byte = __start_emulated_shared; byte != __stop_emulated_shared; ++byte) *byte = '\xff';
}

std::string where_it_waits() {
  unsigned done = 0, barrier = 0, warp = 0;
  for (const Fibre& fibre : launch.fibres) {
    done += fibre.state == State::kDone;
    barrier += fibre.state == State::kAtBarrier;
    warp += fibre.state == State::kAtWarpOperation;
  }
  return "block " + std::to_string(launch.block_number) + " waits for ever: " + std::to_string(barrier) +
         " threads at __syncthreads, " + std::to_string(warp) + " at warp operations, " + std::to_string(done) +
         " have ended";
}

void run_block(uint32_t number, Random& random) {
  start_block(number);
  std::vector<unsigned> ready;
  for (;;) {
    ready.clear();
    bool all_done = true;
    for (unsigned t = 0; t < launch.threads; ++t) {
      if (launch.fibres[t].state == State::kReady) ready.push_back(t);
      all_done &= launch.fibres[t].state == State::kDone;
    }
    if (all_done) return;
    if (ready.empty()) launch.error = where_it_waits();
    // All that are ready now run once, in random order; those that a barrier sets free follow in the next round.
    for (size_t left = ready.size(); left > 0 && launch.error.empty(); --left) {
      std::swap(ready[left - 1], ready[random.below(left)]);
      launch.running = ready[left - 1];
      launch.in_kernel = true;
      switch_to(launch.scheduler, launch.fibres[launch.running].context);
    }
    if (!launch.error.empty()) return;
  }
}

}  // namespace

void before_atomic(const void* address, unsigned bytes) { check(address, bytes, true, true); }

}  // namespace emulation

using emulation::launch;

// Runs a kernel. `buffers` are `buffer_count` pairs of an address and a number of bytes. Returns null, or what was wrong, valid until
// the next call.
extern "C" __attribute__((visibility("default"))) const char* emulate(void (*kernel)(const void*), const uint32_t* grid,
                                                                      uint32_t threads, const void* arguments,
                                                                      uint64_t argument_bytes, const uint64_t* buffers,
                                                                      uint64_t buffer_count, uint64_t seed) {
  using namespace emulation;
  if (stacks == nullptr) {
    void* memory = mmap(nullptr, kStackBytes * kMostThreads, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return "no memory for the stacks of the threads";
    stacks = static_cast<char*>(memory);
  }
  launch.kernel = kernel;
  launch.arguments = arguments;
  launch.argument_bytes = {reinterpret_cast<uintptr_t>(arguments), reinterpret_cast<uintptr_t>(arguments) + argument_bytes};
  launch.grid = {grid[0], grid[1], grid[2]};
  launch.block = {threads, 1, 1};
  launch.threads = threads;
  launch.buffers.clear();
  for (uint64_t i = 0; i < buffer_count; ++i) launch.buffers.push_back({buffers[2 * i], buffers[2 * i] + buffers[2 * i + 1]});
  std::sort(launch.buffers.begin(), launch.buffers.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  launch.error.clear();
  launch.history.forget();
  Random random(seed);
  std::vector<uint32_t> order(static_cast<size_t>(grid[0]) * grid[1] * grid[2]);
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<uint32_t>(i);
  for (size_t left = order.size(); left > 0; --left) {
    std::swap(order[left - 1], order[random.below(left)]);
    run_block(order[left - 1], random);
    if (!launch.error.empty()) return launch.error.c_str();
  }
  return nullptr;
}

// ---------------------------------------------------------------------------------------------------------------------
// What the compiler calls at every access of a kernel

extern "C" {
#define EMULATED_ACCESS(bytes)                                                                     \
  void __tsan_read##bytes(void* address) { emulation::check(address, bytes, false); }              \
  void __tsan_write##bytes(void* address) { emulation::check(address, bytes, true); }              \
  void __tsan_unaligned_read##bytes(void* address) { emulation::check(address, bytes, false); }    \
  void __tsan_unaligned_write##bytes(void* address) { emulation::check(address, bytes, true); }    \
  void __tsan_volatile_read##bytes(void* address) { emulation::check(address, bytes, false); }     \
  void __tsan_volatile_write##bytes(void* address) { emulation::check(address, bytes, true); }
EMULATED_ACCESS(1)
EMULATED_ACCESS(2)
EMULATED_ACCESS(4)
EMULATED_ACCESS(8)
EMULATED_ACCESS(16)
void __tsan_read_range(void* address, unsigned long bytes) {
  emulation::check(address, static_cast<unsigned>(bytes), false);
}
void __tsan_write_range(void* address, unsigned long bytes) {
  emulation::check(address, static_cast<unsigned>(bytes), true);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
}

// ---------------------------------------------------------------------------------------------------------------------
// What the compiler calls where a kernel does what C++ leaves undefined (-fsanitize=shift,bounds, and so on)

namespace {

// The first member of what the compiler passes.
struct Place {
  const char* file;
  uint32_t line, column;
};

void refuse(const char* what, const void* place) {
  if (!launch.in_kernel) return;
  std::string reason = std::string("undefined behaviour: ") + what;
  if (place != nullptr) {
    const Place& at = *static_cast<const Place*>(place);
    reason += " in line " + std::to_string(at.line) + " of " + at.file;
  }
  emulation::give_up(reason);
}

}  // namespace

extern "C" {
void __ubsan_handle_out_of_bounds(void* place, void*) { refuse("an index outside of an array", place); }
void __ubsan_handle_shift_out_of_bounds(void* place, void*, void*) { refuse("a shift by too many bits", place); }
void __ubsan_handle_add_overflow(void* place, void*, void*) { refuse("a sum of integers that overflows", place); }
void __ubsan_handle_sub_overflow(void* place, void*, void*) { refuse("a difference of integers that overflows", place); }
void __ubsan_handle_mul_overflow(void* place, void*, void*) { refuse("a product of integers that overflows", place); }
void __ubsan_handle_negate_overflow(void* place, void*) { refuse("an integer that has no negative", place); }
void __ubsan_handle_divrem_overflow(void* place, void*, void*) { refuse("an integer divided by zero", place); }
void __ubsan_handle_load_invalid_value(void* place, void*) { refuse("a value that its type does not have", place); }
void __ubsan_handle_float_cast_overflow(void*, void*) { refuse("a float beyond the integers of its new type", nullptr); }
}
