// SPDX-License-Identifier: Apache-2.0
// Blends the Gaussians of each tile front to back, and computes the derivative from checkpoints.
#include "cuda_frame.h"

#include "cuda_blend.h"

using namespace cuda;

constexpr int kThreads = kTilePixels;
constexpr int kWarps = kThreads / kWarp;
constexpr float kLeastExponent = -7.99435344f;  // log2(kAlphaMin)
constexpr float kRoundingSlack = 2.0e-3f;       // so that rounding in the test of a part never omits a pixel

struct BlendArguments {
  Frame frame;
};

// Whether alpha may be large enough somewhere in a part of 8 x 4 pixels: the exponent's maximum over the rectangle is
// inside, or on one of the two sides that face the centre. The rectangle is larger by `margin` on each side.
DEVICE bool part_reached(const Splat& s, int part, float margin) {
  const float left = static_cast<float>(part_x(part)) - s.x - margin, right = left + ((kPartWidth - 1) + 2.0f * margin);
  const float top = static_cast<float>(part_y(part)) - s.y - margin, bottom = top + ((kPartHeight - 1) + 2.0f * margin);
  const float near_x = formulas::clamp(0.0f, left, right), near_y = formulas::clamp(0.0f, top, bottom);
  const float best_x = formulas::clamp(-0.5f * s.xy / s.xx * near_y, left, right);
  const float best_y = formulas::clamp(-0.5f * s.xy / s.yy * near_x, top, bottom);
  const float on_vertical = formulas::alpha_exponent(s.xx, s.xy, s.yy, s.log2_opacity, near_x, best_y);
  const float on_horizontal = formulas::alpha_exponent(s.xx, s.xy, s.yy, s.log2_opacity, best_x, near_y);
  return kLeastExponent - kRoundingSlack <= formulas::maximum(on_vertical, on_horizontal);
}

DEVICE uint32_t parts_reached(const Splat& splat, float margin) {
  uint32_t parts = 0;
  for (int part = 0; part < kWarps; ++part) parts |= static_cast<uint32_t>(part_reached(splat, part, margin)) << part;
  return parts;
}

// A pixel and the sums over the Gaussians in front.
struct Pixel {
  float transmittance;
  float channel[kChannels];
};

DEVICE void keep_checkpoint(const Frame& f, int64_t bucket, const Pixel& pixel) {
  float* to = f.checkpoints + bucket * (1 + kChannels) * kTilePixels + threadIdx.x;
  to[0] = pixel.transmittance;
  for (int c = 0; c < kChannels; ++c) to[(1 + c) * kTilePixels] = pixel.channel[c];
}

DEVICE void give_out(const Frame& f, int64_t tile, Pixel pixel) {
  const Camera& camera = f.camera;
  const float left_over = fabsf(pixel.transmittance);
  for (int c = 0; c < 3; ++c) pixel.channel[c] = formulas::fmadd(left_over, camera.background[c], pixel.channel[c]);
  if (f.kept) {
    float* kept = f.pixels + tile * kChannels * kTilePixels + threadIdx.x;
    for (int c = 0; c < kChannels; ++c) kept[c * kTilePixels] = pixel.channel[c];
  }
  const int x = tile_left(f, tile) + pixel_x(threadIdx.x), y = tile_top(f, tile) + pixel_y(threadIdx.x);
  if (x >= camera.width || y >= camera.height) return;
  const int64_t plane = static_cast<int64_t>(camera.width) * camera.height;
  const int64_t place = static_cast<int64_t>(y) * camera.width + x;
  for (int c = 0; c < 3; ++c) {
    float value = pixel.channel[c];
    if (f.clamped) value = formulas::minimum(1.0f, formulas::maximum(0.0f, value));  // in this order NaN is kept
    f.image[c * plane + place] = value;
  }
  if (f.inverse_depth != nullptr) f.inverse_depth[place] = pixel.channel[3];
}

// One block a tile, one thread a pixel.
KERNEL(blend_forward, 256, BlendArguments) {
  __shared__ Splat splats[kThreads];
  __shared__ uint32_t parts[kThreads];
  __shared__ uint32_t open_warps[kWarps];
  const Frame& f = arguments.frame;
  const int64_t tile = blockIdx.x;
  const uint32_t begin = f.tile_begin[tile], end = f.tile_begin[tile + 1];
  const bool inside = tile_left(f, tile) + pixel_x(threadIdx.x) < f.camera.width &&
                      tile_top(f, tile) + pixel_y(threadIdx.x) < f.camera.height;
  const Sample sample = sample_of(f, tile, threadIdx.x);
  Pixel pixel = {inside ? 1.0f : -1.0f, {}};
  uint32_t done = begin;
  for (uint32_t batch = begin; batch < end; batch += kThreads) {
    const unsigned open = __ballot_sync(kAllLanes, pixel.transmittance > 0.0f);
    if (lane() == 0) open_warps[warp()] = open;
    __syncthreads();  // also before the splats of the last batch are overwritten
    uint32_t any_open = 0;
    for (int w = 0; w < kWarps; ++w) any_open |= open_warps[w];
    if (any_open == 0) break;
    const uint32_t mine = batch + threadIdx.x;
    parts[threadIdx.x] = 0;
    if (mine < end) {
      const Splat splat = splat_in_tile(f, f.slot_gaussians[f.entry_slots[mine]], tile);
      splats[threadIdx.x] = splat;
      parts[threadIdx.x] = parts_reached(splat, f.camera.margin);
    }
    __syncthreads();
    done = least(end, batch + kThreads);
    for (uint32_t group = 0; batch + group < done; group += kBucket) {
      if (f.kept) keep_checkpoint(f, f.bucket_begin[tile] + (batch + group - begin) / kBucket, pixel);
      const bool reached = (parts[group + lane()] >> warp() & 1) != 0;
      for (unsigned todo = __ballot_sync(kAllLanes, reached); todo != 0; todo &= todo - 1) {
        const Splat& splat = splats[group + __ffs(static_cast<int>(todo)) - 1];
        const Step step = step_into(splat, sample, pixel.transmittance);
        if (step.blended) {  // and not by a weight of 0, which would make NaN of a colour that is not finite
          const float weight = step.alpha * pixel.transmittance;
          for (int c = 0; c < kChannels; ++c) pixel.channel[c] = formulas::fmadd(weight, splat.channel[c], pixel.channel[c]);
        }
        pixel.transmittance = step.transmittance;
      }
    }
  }
  if (f.kept) {
    if (threadIdx.x == 0) f.tile_used[tile] = done - begin;
    for (uint32_t b = f.bucket_begin[tile] + threadIdx.x; b < f.bucket_begin[tile + 1]; b += kThreads) {
      f.bucket_tiles[b] = static_cast<uint32_t>(tile);
    }
  }
  give_out(f, tile, pixel);
}

// ---------------------------------------------------------------------------------------------------------------------
// Backward

struct BlendBackwardArguments {
  Frame frame;
  const float* d_image;          // (3, H, W)
  const float* d_inverse_depth;  // (1, H, W), or null
  float* derivatives;            // (tiles, kChannels, kTilePixels): the same, by tile
};

// Derivatives for the final colours before clamping, in the order in which tiles need them. One block a tile.
KERNEL(gather_derivatives, 256, BlendBackwardArguments) {
  const Frame& f = arguments.frame;
  const int64_t tile = blockIdx.x;
  const int x = tile_left(f, tile) + pixel_x(threadIdx.x), y = tile_top(f, tile) + pixel_y(threadIdx.x);
  const bool inside = x < f.camera.width && y < f.camera.height;
  const int64_t plane = static_cast<int64_t>(f.camera.width) * f.camera.height;
  const int64_t place = static_cast<int64_t>(y) * f.camera.width + x;
  const int64_t to = tile * kChannels * kTilePixels + threadIdx.x;
  for (int c = 0; c < kChannels; ++c) {
    const float* source = c < 3 ? arguments.d_image + c * plane : arguments.d_inverse_depth;
    float d = inside && source != nullptr ? source[place] : 0.0f;
    const float colour = f.pixels[to + c * kTilePixels];
    if (c < 3 && f.clamped && (colour < 0.0f || 1.0f < colour)) d = 0.0f;
    arguments.derivatives[to + c * kTilePixels] = d;
  }
}

// The state of a pixel before the Gaussian of a lane.
struct Replayed {
  float transmittance;
  float behind;  // derivative times colour, of all Gaussians not yet visited
};

DEVICE Replayed state_before(const BlendBackwardArguments& a, int64_t bucket, int64_t tile, int pixel) {
  const float* before = a.frame.checkpoints + bucket * (1 + kChannels) * kTilePixels + pixel;
  const int64_t at = tile * kChannels * kTilePixels + pixel;
  Replayed state = {before[0], 0.0f};
  for (int c = 0; c < kChannels; ++c) {
    const float behind = a.frame.pixels[at + c * kTilePixels] - before[(1 + c) * kTilePixels];
    state.behind = formulas::fmadd(behind, a.derivatives[at + c * kTilePixels], state.behind);
  }
  return state;
}

// Adds what one Gaussian did to one pixel to its record, and moves the pixel's state behind it.
DEVICE void step_backward(const Splat& splat, const Sample& sample, const float* d, Replayed& state, Record& sums) {
  const Step step = step_into(splat, sample, state.transmittance);
  if (step.blended) {
    const float weight = step.alpha * state.transmittance;
    float along = 0.0f;  // colour times derivative
    for (int c = 0; c < kChannels; ++c) {
      along = formulas::fmadd(splat.channel[c], d[c * kTilePixels], along);
      sums.channel[c] = formulas::fmadd(weight, d[c * kTilePixels], sums.channel[c]);
    }
    state.behind = formulas::fnmadd(weight, along, state.behind);
    const float passes = formulas::reciprocal(1.0f - step.alpha);
    const float d_alpha = formulas::fnmadd(state.behind, passes, state.transmittance * along);
    const float s = step.opacity_times_falloff * d_alpha;
    const float s_dx = s * step.dx, s_dy = s * step.dy;
    sums.s += s;
    sums.sx += s_dx;
    sums.sy += s_dy;
    sums.sxx = formulas::fmadd(s_dx, step.dx, sums.sxx);
    sums.sxy = formulas::fmadd(s_dx, step.dy, sums.sxy);
    sums.syy = formulas::fmadd(s_dy, step.dy, sums.syy);
  }
  state.transmittance = step.transmittance;
}

// One warp a bucket, one lane an entry. At step i, lane l treats pixel i - l, whose state the lane before hands on.
KERNEL(blend_backward, 128, BlendBackwardArguments) {
  const Frame& f = arguments.frame;
  const int64_t bucket = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + warp();
  if (bucket >= f.bucket_begin[tiles_of(f)]) return;  // the whole warp
  const LaneEntry entry = lane_entry(f, bucket);
  Record sums = {};
  if (entry.first < f.tile_used[entry.tile]) {
    const Splat splat = splat_of(f, entry);
    Replayed loaded = {}, state = {};
    for (int i = 0; i < kTilePixels + kWarp - 1; ++i) {
      if (i % kWarp == 0 && i < kTilePixels) {
        loaded = state_before(arguments, bucket, entry.tile, i + static_cast<int>(lane()));
      }
      const float new_transmittance = __shfl_sync(kAllLanes, loaded.transmittance, i % kWarp);
      const float new_behind = __shfl_sync(kAllLanes, loaded.behind, i % kWarp);
      state.transmittance = __shfl_up_sync(kAllLanes, state.transmittance, 1);
      state.behind = __shfl_up_sync(kAllLanes, state.behind, 1);
      if (lane() == 0) state = {new_transmittance, new_behind};
      const int pixel = i - static_cast<int>(lane());
      if (!entry.present || pixel < 0 || pixel >= kTilePixels || state.transmittance < 0.0f) continue;
      const float* derivatives = arguments.derivatives + entry.tile * kChannels * kTilePixels + pixel;
      step_backward(splat, sample_of(f, entry.tile, pixel), derivatives, state, sums);
    }
  }
  if (entry.present) f.records[entry.slot] = sums;
}
