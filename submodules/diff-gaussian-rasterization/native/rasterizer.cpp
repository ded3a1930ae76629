// SPDX-License-Identifier: Apache-2.0
// The library's interface: plain C, for ctypes. Arguments were checked by the caller; see native.py of the package.
#include <algorithm>
#include <chrono>
#include <exception>
#include <new>

#include "adam.h"
#include "cpu_level.h"
#include "export.h"
#include "frame.h"
#include "grid_step.h"
#include "statistics.h"
#include "straight_through.h"
#include "thread_pool.h"

#if defined(_WIN32)
#include <windows.h>  // after all others: it makes macros of words such as small
#else
#include <time.h>
#endif

using namespace rasterizer;

namespace {

enum Status : int32_t { kDone = 0, kOutOfMemory = 1, kTooManyEntries = 2, kFailed = 3 };

// No exception may leave the library.
template <class Work>
int32_t guarded(Work&& work) {
  try {
    work();
    return kDone;
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  } catch (const TooManyEntries&) {
    return kTooManyEntries;
  } catch (const std::exception&) {
    return kFailed;
  }
}

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The processor time of all threads of this process.
double cpu_seconds() {
#if defined(_WIN32)
  FILETIME created, ended, kernel, user;
  GetProcessTimes(GetCurrentProcess(), &created, &ended, &kernel, &user);
  const auto ticks = [](FILETIME time) { return static_cast<double>(uint64_t{time.dwHighDateTime} << 32 | time.dwLowDateTime); };
  return 1e-7 * (ticks(kernel) + ticks(user));
#else
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
#endif
}

template <class Work>
void timed(Frame& frame, Stage stage, Work&& work) {
  const double wall = wall_seconds(), cpu = cpu_seconds();
  work();
  frame.wall_seconds[stage] = wall_seconds() - wall;
  frame.cpu_seconds[stage] = cpu_seconds() - cpu;
}

}  // namespace

EXPORT Frame* frame_create() { return new (std::nothrow) Frame(); }

EXPORT void frame_destroy(Frame* frame) { delete frame; }

// offsets: of the pixels, (H, W, 2), which must stay until the last use of the frame; or null. keep: whether frame_backward or
// frame_importance may follow. clamp: whether the image is limited to [0, 1].
EXPORT int32_t frame_render(Frame* frame, const Camera* camera, const Scene* scene, const float* offsets,
                            const Outputs* outputs, int32_t keep, int32_t clamp, int32_t threads) {
  return guarded([&] {
    frame->camera = *camera;
    frame->offsets = offsets;
    frame->count = scene->count;
    frame->columns = (camera->width + kTileSize - 1) / kTileSize;
    frame->rows = (camera->height + kTileSize - 1) / kTileSize;
    frame->kept = keep;
    frame->clamped = clamp;
    std::fill(frame->wall_seconds, frame->wall_seconds + kStages, 0.0);
    std::fill(frame->cpu_seconds, frame->cpu_seconds + kStages, 0.0);
    timed(*frame, kProject, [&] { project_gaussians(*frame, *scene, outputs->radii, threads); });
    timed(*frame, kSort, [&] { sort_into_tiles(*frame, threads); });
    timed(*frame, kBlend, [&] { blend(*frame, *outputs, threads); });
  });
}

EXPORT int32_t frame_backward(Frame* frame, const Scene* scene, const float* d_image, const float* d_inverse_depth,
                              const SceneGradients* gradients, int32_t threads) {
  return guarded([&] {
    timed(*frame, kBlendBackward, [&] { blend_backward(*frame, d_image, d_inverse_depth, threads); });
    timed(*frame, kProjectBackward, [&] { project_backward(*frame, *scene, *gradients, threads); });
  });
}

EXPORT int32_t frame_importance(Frame* frame, const Importance* importance, int32_t threads) {
  return guarded([&] { measure_importance(*frame, *importance, threads); });
}

// Sizes of the last view, for benchmarks: Gaussians drawn, tile entries, pixels in the blocks blended (0 unless kept).
EXPORT void frame_counts(const Frame* frame, int64_t* counts) {
  counts[0] = frame->drawn;
  counts[1] = frame->tile_begin[frame->tiles()];
  counts[2] = 0;
  if (!frame->kept) return;
  for (int64_t tile = 0; tile < frame->tiles(); ++tile) {
    for (uint32_t i = 0; i < frame->tile_used[tile]; ++i) {
      counts[2] += __builtin_popcountll(frame->masks[frame->tile_begin[tile] + i]) * simd::kLanes;
    }
  }
}

// Wall and processor time of the stages of the last view, in the order of `Stage`.
EXPORT void frame_seconds(const Frame* frame, double* wall, double* cpu) {
  for (int stage = 0; stage < kStages; ++stage) {
    wall[stage] = frame->wall_seconds[stage];
    cpu[stage] = frame->cpu_seconds[stage];
  }
}

EXPORT void mark_visible(const Camera* camera, const float* means, int64_t count, uint8_t* visible) {
  for (int64_t i = 0; i < count; ++i) {
    const formulas::Vector<float> mean = {means[3 * i], means[3 * i + 1], means[3 * i + 2]};
    visible[i] = formulas::view_depth(*camera, mean) > formulas::kNearDepth;
  }
}

EXPORT int32_t adam_update(const AdamGroup* groups, int32_t count, const AdamConstants* constants, const uint8_t* chosen,
                           int32_t threads) {
  return guarded([&] {
    for (int32_t i = 0; i < count; ++i) adam_step(groups[i], *constants, chosen, threads);
  });
}

EXPORT int32_t straight_through_update(const StraightThroughGroup* groups, int32_t count, const AdamConstants* constants,
                                       ParameterRange* ranges, int32_t threads) {
  return guarded([&] {
    for (int32_t i = 0; i < count; ++i) straight_through_step(groups[i], *constants, &ranges[i], threads);
  });
}

EXPORT void statistics_add_view(const ViewStatistics* statistics, int32_t threads) { add_view(*statistics, threads); }

EXPORT void statistics_add_floats(float* total, const float* part, int64_t count, int32_t threads) {
  add_floats(total, part, count, threads);
}

EXPORT int32_t statistics_add_signs(const WeightedSigns* signs, int32_t threads) {
  return guarded([&] { add_signs(*signs, threads); });
}

EXPORT int32_t grid_pull_back(float* gradients, int64_t rows, const GridConstants* grids, int32_t channels,
                              int32_t threads) {
  return guarded([&] { pull_back(gradients, rows, *grids, channels, threads); });
}

EXPORT int32_t grid_update(const GridModel* model, const GridConstants* grids, const AdamConstants* constants,
                           int32_t threads) {
  return guarded([&] { grid_step(*model, *grids, *constants, threads); });
}
