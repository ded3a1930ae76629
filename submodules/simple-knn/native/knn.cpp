// SPDX-License-Identifier: Apache-2.0
// Mean squared distance of every point to its three nearest other points, exact, by a balanced k-d tree.
//
// The tree is implicit: node i has the children 2i and 2i + 1, the leaves are the nodes leaves ... 2 leaves - 1, and a
// node covers an equal share of the points, which are sorted in place by splitting at the median of the longest side.
// The search starts in the point's own leaf and climbs to the root; on the way a sibling is entered only if its
// bounding box is nearer than the third nearest point so far. Rounding is monotone, so a box is never farther than a
// point in it, and the result is exact. It depends on neither the order of the search nor the number of threads.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

#include "cpu_level.h"
#include "thread_pool.h"

namespace {

constexpr int kNeighbours = 3;
constexpr int64_t kLeafPoints = 8;         // a leaf has at most so many points
constexpr int64_t kLeavesPerTask = 256;    // neighbouring leaves, which share the cached part of the tree
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Point {
  float position[3];
  uint32_t index;
};

struct Box {
  float low[3] = {kInfinity, kInfinity, kInfinity};
  float high[3] = {-kInfinity, -kInfinity, -kInfinity};

  void add(const Point& point) {
    for (int axis = 0; axis < 3; ++axis) {
      low[axis] = std::min(low[axis], point.position[axis]);
      high[axis] = std::max(high[axis], point.position[axis]);
    }
  }

  int longest_axis() const {
    const float x = high[0] - low[0], y = high[1] - low[1], z = high[2] - low[2];
    return x >= y && x >= z ? 0 : y >= z ? 1 : 2;
  }

  float squared_distance(const Point& point) const {
    float total = 0;
    for (int axis = 0; axis < 3; ++axis) {
      const float p = point.position[axis];
      const float gap = std::max(std::max(low[axis] - p, p - high[axis]), 0.0f);
      total += gap * gap;
    }
    return total;
  }
};

// The three smallest squared distances so far, in ascending order.
struct Nearest {
  float squared[kNeighbours] = {kInfinity, kInfinity, kInfinity};

  void add(float candidate) {
    if (!(candidate < squared[2])) return;
    squared[2] = std::max(squared[1], candidate);
    squared[1] = std::max(squared[0], std::min(squared[1], candidate));
    squared[0] = std::min(squared[0], candidate);
  }

  float worst() const { return squared[kNeighbours - 1]; }

  float mean(int64_t others) const {
    const int count = static_cast<int>(std::min<int64_t>(others, kNeighbours));
    float total = 0;
    for (int i = 0; i < count; ++i) total += squared[i];
    return count == 0 ? 0.0f : total / static_cast<float>(count);
  }
};

class Tree {
 public:
  Tree(const float* positions, int64_t count, int threads) : points_(count) {
    for (int64_t i = 0; i < count; ++i) {
      points_[i] = {{positions[3 * i], positions[3 * i + 1], positions[3 * i + 2]}, static_cast<uint32_t>(i)};
    }
    while (leaves_ * kLeafPoints < count) leaves_ *= 2;
    boxes_.resize(2 * leaves_);
    for (int64_t level = 1; level <= leaves_; level *= 2) {
      ThreadPool::run(threads, level, [&](int64_t index, int) { split(level, index); });
    }
  }

  void mean_squared_distances(float* means, int threads) const {
    const int64_t tasks = (leaves_ + kLeavesPerTask - 1) / kLeavesPerTask;
    ThreadPool::run(threads, tasks, [&](int64_t task, int) {
      const int64_t end = std::min((task + 1) * kLeavesPerTask, leaves_);
      for (int64_t leaf = task * kLeavesPerTask; leaf < end; ++leaf) {
        for (int64_t i = start(leaves_, leaf); i < start(leaves_, leaf + 1); ++i) {
          means[points_[i].index] = search(leaf, i).mean(static_cast<int64_t>(points_.size()) - 1);
        }
      }
    });
  }

 private:
  // First point of the node number `index` of a level of `nodes` nodes.
  int64_t start(int64_t nodes, int64_t index) const { return static_cast<int64_t>(points_.size()) * index / nodes; }

  void split(int64_t level, int64_t index) {
    Point* begin = points_.data() + start(level, index);
    Point* end = points_.data() + start(level, index + 1);
    Box box;
    for (const Point* point = begin; point != end; ++point) box.add(*point);
    boxes_[level + index] = box;
    if (level == leaves_) return;
    const int axis = box.longest_axis();
    std::nth_element(begin, points_.data() + start(2 * level, 2 * index + 1), end,
                     [axis](const Point& a, const Point& b) { return a.position[axis] < b.position[axis]; });
  }

  Nearest search(int64_t leaf, int64_t self) const {
    Nearest nearest;
    const Point& point = points_[self];
    scan(start(leaves_, leaf), self, point, nearest);
    scan(self + 1, start(leaves_, leaf + 1), point, nearest);
    for (int64_t node = leaves_ + leaf; node > 1; node /= 2) {
      const int64_t sibling = node ^ 1;
      if (boxes_[sibling].squared_distance(point) < nearest.worst()) descend(sibling, point, nearest);
    }
    return nearest;
  }

  void descend(int64_t node, const Point& point, Nearest& nearest) const {
    if (node >= leaves_) {
      scan(start(leaves_, node - leaves_), start(leaves_, node - leaves_ + 1), point, nearest);
      return;
    }
    int64_t near = 2 * node, far = near + 1;
    float near_distance = boxes_[near].squared_distance(point);
    float far_distance = boxes_[far].squared_distance(point);
    if (far_distance < near_distance) {
      std::swap(near, far);
      std::swap(near_distance, far_distance);
    }
    if (near_distance < nearest.worst()) descend(near, point, nearest);
    if (far_distance < nearest.worst()) descend(far, point, nearest);
  }

  void scan(int64_t begin, int64_t end, const Point& point, Nearest& nearest) const {
    for (int64_t i = begin; i < end; ++i) {
      float total = 0;
      for (int axis = 0; axis < 3; ++axis) {
        const float gap = points_[i].position[axis] - point.position[axis];
        total += gap * gap;
      }
      nearest.add(total);
    }
  }

  std::vector<Point> points_;
  std::vector<Box> boxes_;
  int64_t leaves_ = 1;
};

}  // namespace

// means[i] = mean of the squared distances of point i to its three nearest other points, or to all of them if there are
// fewer, or 0 if there is none. `positions` is (count, 3), finite; count < 2^32. Returns 0, or 1 if there is not enough
// memory.
EXPORT int mean_squared_neighbour_distances(const float* positions,
                                                                                       int64_t count, float* means,
                                                                                       int32_t threads) {
  try {
    Tree(positions, count, threads).mean_squared_distances(means, threads);
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}
