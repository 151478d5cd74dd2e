// A call that Python has checked once: its parameters, read from views and numbers, with the addresses left open. It is
// run any number of times with the addresses alone, on the CPU, by nvcc's kernels, or by NVRTC's through Python.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "schedule.h"
#include "substrate/view.h"

namespace fastreenact {

namespace py = pybind11;

// What Python says of one call: views by name (None, or sizes, strides and dtype), then numbers or arrays by name. None
// may be left over; a view that is not given is none. What they are was checked by the functions in fastreenact/ops.
class Arguments {
  public:
    Arguments(const char* op, const py::dict& views, const py::dict& numbers, void* params)
        : op_(op), numbers_(numbers), params_(static_cast<char*>(params)) {
        for (const auto& item : views) {
            names_.push_back(item.first.cast<std::string>());
            views_.push_back(item.second.is_none() ? View{} : view_of(item.second.cast<py::tuple>()));
        }
        offsets_.assign(names_.size(), kUnread);
    }

    // The tensor `name`, whose address every run writes into `field`, a part of the parameters: not null until then.
    template <typename T>
    View view(const char* name, T*& field, View::Places sizes = {}, View::Places strides = {}) {
        static char open;
        for (size_t i = 0; i < names_.size(); ++i) {
            if (names_[i] != name) continue;
            offsets_[i] = offset(field);
            if (views_[i].there) field = reinterpret_cast<T*>(&open);
            return views_[i].sizes(sizes).strides(strides);
        }
        return {};
    }
    // A table [N, H, W, C] that broadcasts along axes of size 1, or [C].
    View table(const char* name, Table& table) {
        return view(name, table.data).broadcast().strides({&table.stride_n, &table.stride_y, &table.stride_x});
    }
    // Work memory on a GPU, as much as workspace_bytes_of says.
    template <typename T>
    void workspace(T*& field) {
        workspace_ = offset(field);
    }

    template <typename T>
    T value(const char* name, bool convert = false) {
        py::detail::make_caster<T> caster;
        if (!caster.load(find(name), convert)) {
            throw py::type_error(std::string(op_) + ": " + name + " is of a type that does not fit");
        }
        return py::detail::cast_op<T>(std::move(caster));
    }
    int64_t integer(const char* name) { return value<int64_t>(name); }
    int32_t number(const char* name) { return value<int32_t>(name); }
    int32_t flag(const char* name) { return value<bool>(name) ? 1 : 0; }
    double real(const char* name) { return value<double>(name, true); }  // whole numbers too
    float single(const char* name) { return static_cast<float>(real(name)); }

    // The memory of a contiguous NumPy array of this type and shape; 0: its size is written to the next of `free`.
    template <typename T>
    T* array(const char* name, std::initializer_list<int64_t> shape, View::Places free = {}) {
        using Array = py::array_t<std::remove_const_t<T>, py::array::c_style>;
        const py::handle given = find(name);
        if (!Array::check_(given)) refuse(name, shape);
        auto array = py::reinterpret_borrow<Array>(given);
        const auto* place = free.begin();
        bool fits = array.ndim() == static_cast<py::ssize_t>(shape.size());
        for (size_t i = 0; fits && i < shape.size(); ++i) {
            const int64_t size = array.shape(static_cast<py::ssize_t>(i)), wanted = shape.begin()[i];
            if (wanted == 0) **place++ = size;
            fits = wanted == 0 || size == wanted;
        }
        if (!fits) refuse(name, shape);
        if constexpr (std::is_const_v<T>) {
            return array.data();
        } else {
            return array.mutable_data();  // ValueError where it is read-only
        }
    }

    // A copy of a contiguous NumPy array of any shape, of no more elements than `most`; the rest stays 0.
    template <typename T, size_t kMost>
    void copy(const char* name, T (&to)[kMost]) {
        using Array = py::array_t<T, py::array::c_style>;
        const py::handle given = find(name);
        if (!Array::check_(given)) refuse(name, {0});
        const auto array = py::reinterpret_borrow<Array>(given);
        if (array.size() > static_cast<py::ssize_t>(kMost)) refuse(name, {static_cast<int64_t>(kMost)});
        std::memcpy(to, array.data(), static_cast<size_t>(array.nbytes()));
    }
    template <typename T, size_t kRows, size_t kColumns>
    void copy(const char* name, T (&to)[kRows][kColumns]) {
        copy(name, reinterpret_cast<T(&)[kRows * kColumns]>(to));
    }
    // Of a NumPy array [rows, columns, values] whose rows may lie apart, packed within a row; `stride` in elements.
    template <typename T>
    T* window(const char* name, int64_t values, int64_t& rows, int64_t& columns, int64_t& stride) {
        const py::handle given = find(name);
        if (!py::array_t<T>::check_(given)) refuse(name, {0, 0, values});
        auto array = py::reinterpret_borrow<py::array_t<T>>(given);
        constexpr auto kSize = static_cast<py::ssize_t>(sizeof(T));
        if (array.ndim() != 3 || array.shape(2) != values || array.strides(2) != kSize ||
            array.strides(1) != values * kSize || array.strides(0) % kSize != 0) {
            refuse(name, {0, 0, values});
        }
        rows = array.shape(0), columns = array.shape(1), stride = array.strides(0) / kSize;
        return array.mutable_data();
    }

    // After the last: where each address goes, in the order of the views.
    std::vector<ptrdiff_t> end() const {
        for (size_t i = 0; i < names_.size(); ++i) {
            if (offsets_[i] == kUnread) throw py::type_error(std::string(op_) + ": knows no view " + names_[i]);
        }
        if (read_ != numbers_.size()) throw py::type_error(std::string(op_) + ": got keywords that it does not know");
        return offsets_;
    }
    ptrdiff_t workspace_offset() const { return workspace_; }

    static constexpr ptrdiff_t kUnread = -1;

  private:
    static View view_of(const py::tuple& given) {
        View view = {};
        const auto size = given[0].cast<py::tuple>(), stride = given[1].cast<py::tuple>();
        if (size.size() > View::kAxes) throw py::value_error("a view has 5 axes at most");
        view.there = true;
        view.rank = static_cast<int32_t>(size.size());
        view.dtype = given[2].cast<int32_t>();
        for (size_t i = 0; i < size.size(); ++i) {
            view.size[i] = size[i].cast<int64_t>();
            view.stride[i] = stride[i].cast<int64_t>();
        }
        return view;
    }
    template <typename T>
    ptrdiff_t offset(T*& field) const {
        return reinterpret_cast<const char*>(&field) - params_;
    }
    py::handle find(const char* name) {
        PyObject* found = PyDict_GetItemString(numbers_.ptr(), name);
        if (found == nullptr) throw py::type_error(std::string(op_) + ": needs the keyword " + name);
        ++read_;
        return found;
    }
    [[noreturn]] void refuse(const char* name, std::initializer_list<int64_t> shape) const {
        std::string words;
        for (const int64_t size : shape)
            words += (words.empty() ? "" : ", ") + (size == 0 ? "any" : std::to_string(size));
        throw py::type_error(std::string(op_) + ": " + name + " needs to be a contiguous array of its own type, [" +
                             words + "]");
    }

    const char* op_;
    const py::dict& numbers_;
    char* params_;
    std::vector<std::string> names_;
    std::vector<View> views_;
    std::vector<ptrdiff_t> offsets_;
    ptrdiff_t workspace_ = kUnread;
    size_t read_ = 0;
};

// Calls as Python holds them.
class Call {
  public:
    virtual ~Call() = default;
    virtual void run(const py::args& addresses) const = 0;
    virtual std::vector<Launch> launches(uintptr_t workspace, const py::args& addresses) const = 0;
    virtual int64_t workspace_bytes() const = 0;
};

template <typename Params>
class CallOf : public Call {
  public:
    CallOf(const char* op, const py::dict& views, const py::dict& numbers) : op_(op) {
        std::memset(static_cast<void*>(&params_), 0, sizeof(params_));  // bytes between fields too: they are launched
        Arguments arguments(op, views, numbers, &params_);
        read(arguments, params_);
        offsets_ = arguments.end();
        workspace_ = arguments.workspace_offset();
    }
    // The parameters with these addresses; other threads may run the same call with others.
    Params at(const py::args& addresses) const {
        if (addresses.size() != offsets_.size()) {
            throw py::type_error(std::string(op_) + ": needs " + std::to_string(offsets_.size()) + " addresses");
        }
        Params params = params_;
        for (size_t i = 0; i < offsets_.size(); ++i) {
            const auto address = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(addresses.ptr(), static_cast<ssize_t>(i)));
            if (address == ~0ull && PyErr_Occurred() != nullptr) throw py::error_already_set();
            put(params, offsets_[i], static_cast<uintptr_t>(address));
        }
        return params;
    }
    void run(const py::args& addresses) const override {
        Params params = at(addresses);
        py::gil_scoped_release nogil;
        fastreenact::run(params);
    }
    std::vector<Launch> launches(uintptr_t workspace, const py::args& addresses) const override {
        Params params = at(addresses);
        if (workspace_ != Arguments::kUnread) put(params, workspace_, workspace);
        return fastreenact::launches(params);
    }
    int64_t workspace_bytes() const override { return workspace_bytes_of(params_); }

  private:
    static void put(Params& params, ptrdiff_t offset, uintptr_t address) {
        std::memcpy(reinterpret_cast<char*>(&params) + offset, &address, sizeof(address));
    }

    const char* op_;
    Params params_;
    std::vector<ptrdiff_t> offsets_;
    ptrdiff_t workspace_;
};

template <typename Params>
void define(py::module_& m, const char* op) {
    m.def(op, [op](const py::dict& views, const py::kwargs& numbers) {
        return std::unique_ptr<Call>(new CallOf<Params>(op, views, numbers));
    });
}

// An op on NumPy arrays, whose numbers are others at every call: it runs at once.
template <typename Params>
void define_direct(py::module_& m, const char* op) {
    m.def(op, [op](const py::kwargs& given) {
        Params params = {};
        Arguments arguments(op, py::dict(), given, &params);
        read(arguments, params);
        arguments.end();
        py::gil_scoped_release nogil;
        run(params);
    });
}

}  // namespace fastreenact
