// A tensor as it comes over the boundary: how it lies. Its address comes with each call.
#pragma once
#include <initializer_list>

#include "substrate/common.h"

namespace fastreenact {

struct View {
    static constexpr int kAxes = 5;
    using Places = std::initializer_list<int64_t*>;

    bool there;             // whether there is one at all; the rest is 0 where there is none
    int32_t rank;           // number of axes, at most kAxes
    int32_t dtype;          // Dtype
    int64_t size[kAxes];    // elements along each axis
    int64_t stride[kAxes];  // elements from one to the next along it

    // The sizes, or strides, from the first axis on; null: not needed.
    const View& sizes(Places places) const { return copy(size, places); }
    const View& strides(Places places) const { return copy(stride, places); }

    // With strides of 0 along axes of size 1, which then serve any size; a vector serves every pixel.
    View broadcast() const {
        View view = *this;
        for (int i = 0; i < kAxes; ++i) {
            if (rank == 1 || size[i] == 1) view.stride[i] = 0;
        }
        return view;
    }
    // Without a first axis of pictures: one of them.
    View batch(int32_t axes) const {
        View view = *this;
        if (rank + 1 != axes) return view;
        view.rank = axes, view.size[0] = 1, view.stride[0] = 0;
        for (int i = 0; i + 1 < axes; ++i) view.size[i + 1] = size[i], view.stride[i + 1] = stride[i];
        return view;
    }
    // A picture [N, H, W, C] as a volume of depth 1.
    View volume() const {
        View view = *this;
        if (rank != 4) return view;
        view.rank = 5, view.size[1] = 1, view.stride[1] = 0;
        for (int i = 1; i < 4; ++i) view.size[i + 1] = size[i], view.stride[i + 1] = stride[i];
        return view;
    }

  private:
    const View& copy(const int64_t* values, Places places) const {
        for (int64_t* place : places) {
            if (place != nullptr) *place = *values;
            ++values;
        }
        return *this;
    }
};

}  // namespace fastreenact
