// SPDX-License-Identifier: Apache-2.0
// Mean squared distance of every point to its three nearest other points, exact, by a tree of boxes.
//
// Points are sorted along a space-filling curve (Morton 1966) and cut into leaves of equal numbers. The tree is implicit, as in knn.cpp: node i
// has the children 2i and 2i + 1, the leaves are the nodes leaves ... 2 leaves - 1. The search is that of knn.cpp, too: from the
// point's own leaf to the root, with a stack instead of recursion. It is exact for any order of the points.
#include "cuda_kernel.h"

using namespace cuda;

// Mirrored in cuda_knn.py of the package.
struct KnnArguments {
  const float* positions;  // (count, 3)
  const float* low;        // (3): the least coordinates
  const float* high;
  int64_t* codes;          // (count): places along the curve
  const int64_t* order;    // (count): the number of each sorted point; all below are for sorted points
  float* boxes;            // (2 leaves, 6): least and greatest coordinates
  float* means;            // (count), in the points' first order
  int64_t count;
  int64_t leaves;          // a power of two
  int64_t level;           // nodes of the level to join
};

constexpr int kAxisBits = 21;
constexpr int kMostLevels = 32;

// The bits of a number of kAxisBits bits, two zeros before each.
DEVICE uint64_t spread_bits(uint64_t a) {
  uint64_t result = 0;
  for (int bit = 0; bit < kAxisBits; ++bit) result |= (a >> bit & 1) << (3 * bit);
  return result;
}

KERNEL(morton_codes, 256, KnnArguments) {
  const KnnArguments& a = arguments;
  const int64_t i = global_thread();
  if (i >= a.count) return;
  uint64_t code = 0;
  for (int axis = 0; axis < 3; ++axis) {
    const float span = a.high[axis] - a.low[axis];
    const float share = span > 0.0f ? (a.positions[3 * i + axis] - a.low[axis]) / span : 0.0f;
    // Of a span beyond the largest number the share may be NaN, which becomes 0.
    const float cell = fminf(fmaxf(share, 0.0f), 1.0f) * static_cast<float>((1 << kAxisBits) - 1);
    code |= spread_bits(static_cast<uint64_t>(cell)) << axis;
  }
  a.codes[i] = static_cast<int64_t>(code);
}

struct Point {
  float position[3];
};

DEVICE Point point_at(const KnnArguments& a, int64_t i) {
  return {{a.positions[3 * i], a.positions[3 * i + 1], a.positions[3 * i + 2]}};
}

// First point of a leaf.
DEVICE int64_t start_of(const KnnArguments& a, int64_t leaf) { return a.count * leaf / a.leaves; }

KERNEL(leaf_boxes, 256, KnnArguments) {
  const KnnArguments& a = arguments;
  const int64_t leaf = global_thread();
  if (leaf >= a.leaves) return;
  const float most = infinity();
  float low[3] = {most, most, most}, high[3] = {-most, -most, -most};
  for (int64_t i = start_of(a, leaf); i < start_of(a, leaf + 1); ++i) {
    const Point point = point_at(a, i);
    for (int axis = 0; axis < 3; ++axis) {
      low[axis] = fminf(low[axis], point.position[axis]);
      high[axis] = fmaxf(high[axis], point.position[axis]);
    }
  }
  float* box = a.boxes + 6 * (a.leaves + leaf);
  for (int axis = 0; axis < 3; ++axis) {
    box[axis] = low[axis];
    box[3 + axis] = high[axis];
  }
}

// One thread a node of the level: the box around those of its children.
KERNEL(join_boxes, 256, KnnArguments) {
  const KnnArguments& a = arguments;
  const int64_t index = global_thread();
  if (index >= a.level) return;
  const int64_t node = a.level + index;
  const float* first = a.boxes + 12 * node;
  const float* second = first + 6;
  for (int axis = 0; axis < 3; ++axis) {
    a.boxes[6 * node + axis] = fminf(first[axis], second[axis]);
    a.boxes[6 * node + 3 + axis] = fmaxf(first[3 + axis], second[3 + axis]);
  }
}

DEVICE float squared_distance(const KnnArguments& a, int64_t node, const Point& point) {
  const float* box = a.boxes + 6 * node;
  float total = 0.0f;
  for (int axis = 0; axis < 3; ++axis) {
    const float p = point.position[axis];
    const float gap = fmaxf(fmaxf(box[axis] - p, p - box[3 + axis]), 0.0f);
    total = fmaf(gap, gap, total);
  }
  return total;
}

// The three smallest squared distances so far, in ascending order.
struct Nearest {
  float first, second, third;
};

DEVICE void add(Nearest& n, float candidate) {
  if (!(candidate < n.third)) return;
  n.third = greatest(n.second, candidate);
  n.second = greatest(n.first, least(n.second, candidate));
  n.first = least(n.first, candidate);
}

DEVICE void scan(const KnnArguments& a, int64_t begin, int64_t end, const Point& point, Nearest& nearest) {
  for (int64_t i = begin; i < end; ++i) {
    const Point other = point_at(a, i);
    float total = 0.0f;
    for (int axis = 0; axis < 3; ++axis) {
      const float gap = other.position[axis] - point.position[axis];
      total = fmaf(gap, gap, total);
    }
    add(nearest, total);
  }
}

DEVICE void descend(const KnnArguments& a, int64_t top, const Point& point, Nearest& nearest) {
  uint32_t stack[kMostLevels];
  int height = 0;
  stack[height++] = static_cast<uint32_t>(top);
  while (height > 0) {
    const int64_t node = stack[--height];
    if (!(squared_distance(a, node, point) < nearest.third)) continue;
    if (node >= a.leaves) {
      const int64_t leaf = node - a.leaves;
      scan(a, start_of(a, leaf), start_of(a, leaf + 1), point, nearest);
      continue;
    }
    const int64_t left = 2 * node;
    const int64_t right_is_nearer = squared_distance(a, left + 1, point) < squared_distance(a, left, point);
    stack[height++] = static_cast<uint32_t>(left + 1 - right_is_nearer);  // the farther one waits
    stack[height++] = static_cast<uint32_t>(left + right_is_nearer);
  }
}

DEVICE float mean_of(const Nearest& n, int64_t others) {
  if (others >= 3) return (n.first + n.second + n.third) / 3.0f;
  if (others == 2) return (n.first + n.second) / 2.0f;
  return others == 1 ? n.first : 0.0f;
}

KERNEL(mean_distances, 256, KnnArguments) {
  const KnnArguments& a = arguments;
  const int64_t i = global_thread();
  if (i >= a.count) return;
  const Point point = point_at(a, i);
  int64_t leaf = i * a.leaves / a.count;
  while (start_of(a, leaf + 1) <= i) ++leaf;
  Nearest nearest = {infinity(), infinity(), infinity()};
  scan(a, start_of(a, leaf), i, point, nearest);
  scan(a, i + 1, start_of(a, leaf + 1), point, nearest);
  for (int64_t node = a.leaves + leaf; node > 1; node /= 2) descend(a, node ^ 1, point, nearest);
  a.means[a.order[i]] = mean_of(nearest, a.count - 1);
}
