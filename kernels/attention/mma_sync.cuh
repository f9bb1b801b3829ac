// How the kernels for every card share a block's rows: four warps of two fragments, so that what a warp reads of the other side
// serves two products.
#pragma once
#include "tile.cuh"

namespace attention {

constexpr int F = 2, M = 16 * F;  // fragments and rows of a warp

}  // namespace attention
