// SPDX-License-Identifier: Apache-2.0
// How much each Gaussian contributes to a view whose data are kept, as importance.cpp.
#include "cuda_frame.h"

#include "cuda_blend.h"

using namespace cuda;

// Sums over the pixels of one tile, for one Gaussian.
struct Contribution {
  float weight;   // alpha times transmittance, times the weight of the pixel
  float largest;  // of these
  int32_t count;  // pixels
};

// Mirrored in cuda_render.py of the package.
struct ImportanceArguments {
  Frame frame;
  const float* pixel_weights;   // (H, W), or null
  Contribution* contributions;  // by slot
  int32_t* counts;              // by Gaussian, as are the next two
  float* weights;
  float* largest;
};

DEVICE float weight_of(const ImportanceArguments& a, int64_t tile, int pixel) {
  if (a.pixel_weights == nullptr) return 1.0f;
  const int x = tile_left(a.frame, tile) + pixel_x(pixel), y = tile_top(a.frame, tile) + pixel_y(pixel);
  return a.pixel_weights[static_cast<int64_t>(y) * a.frame.camera.width + x];
}

DEVICE Contribution contribution_of(const Splat& splat, const ImportanceArguments& a, int64_t tile, int pixel,
                                    float& transmittance, const Contribution& before) {
  const Step step = step_into(splat, sample_of(a.frame, tile, pixel), transmittance);
  Contribution sums = before;
  if (step.blended) {
    const float weight = step.alpha * transmittance * weight_of(a, tile, pixel);
    sums.weight += weight;
    sums.largest = sums.count == 0 ? weight : formulas::maximum(sums.largest, weight);
    ++sums.count;
  }
  transmittance = step.transmittance;
  return sums;
}

// One warp a bucket, one lane an entry. At step i, lane l treats pixel i - l, whose transmittance the lane before hands on.
KERNEL(measure_entries, 128, ImportanceArguments) {
  const Frame& f = arguments.frame;
  const int64_t bucket = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + warp();
  if (bucket >= f.bucket_begin[tiles_of(f)]) return;  // the whole warp
  const LaneEntry entry = lane_entry(f, bucket);
  Contribution sums = {};
  if (entry.first < f.tile_used[entry.tile]) {
    const Splat splat = splat_of(f, entry);
    const float* checkpoint = f.checkpoints + bucket * (1 + kChannels) * kTilePixels;
    float loaded = 0.0f, transmittance = 0.0f;
    for (int i = 0; i < kTilePixels + kWarp - 1; ++i) {
      if (i % kWarp == 0 && i < kTilePixels) loaded = checkpoint[i + static_cast<int>(lane())];
      const float entering = __shfl_sync(kAllLanes, loaded, i % kWarp);
      transmittance = __shfl_up_sync(kAllLanes, transmittance, 1);
      if (lane() == 0) transmittance = entering;
      const int pixel = i - static_cast<int>(lane());
      if (!entry.present || pixel < 0 || pixel >= kTilePixels || transmittance < 0.0f) continue;
      sums = contribution_of(splat, arguments, entry.tile, pixel, transmittance, sums);
    }
  }
  if (entry.present) arguments.contributions[entry.slot] = sums;
}

// One thread a Gaussian.
KERNEL(sum_contributions, 256, ImportanceArguments) {
  const Frame& f = arguments.frame;
  const int64_t i = global_thread();
  if (i >= f.count) return;
  Contribution total = {};
  for (uint32_t n = 0; n < f.tile_counts[i]; ++n) {
    const Contribution& part = arguments.contributions[f.first_slots[i] + n];
    if (part.count == 0) continue;
    total.weight += part.weight;
    total.largest = total.count == 0 ? part.largest : formulas::maximum(total.largest, part.largest);
    total.count += part.count;
  }
  arguments.counts[i] = total.count;
  arguments.weights[i] = total.weight;
  arguments.largest[i] = total.largest;
}
