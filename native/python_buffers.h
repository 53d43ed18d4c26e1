// What all bindings share: Python's buffers held while native code works on them, and refusals.
#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <vector>

#include "kernels.h"

namespace shosoin {

namespace nb = nanobind;

// Contiguous bytes of Python objects, held while this lives: nobody can resize them meanwhile.
class Views {
  public:
    enum class Access { kRead, kWrite };

    explicit Views(std::size_t capacity) { views_.reserve(capacity); }  // a Py_buffer must not move
    Views(const Views&) = delete;
    Views& operator=(const Views&) = delete;
    ~Views() {
        for (Py_buffer& view : views_) PyBuffer_Release(&view);
    }

    Bytes take(nb::handle object, Access access, const char* what) {
        Py_buffer view;
        if (PyObject_GetBuffer(object.ptr(), &view, access == Access::kWrite ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0) {
            if (PyErr_ExceptionMatches(PyExc_TypeError)) nb::raise_python_error();
            PyErr_Clear();
            throw nb::value_error((std::string(what) + (access == Access::kWrite ? " must be contiguous and writable"
                                                                                 : " must be contiguous"))
                                      .c_str());
        }
        views_.push_back(view);
        return static_cast<Bytes>(view.buf);
    }

    std::size_t size(std::size_t i) const { return static_cast<std::size_t>(views_[i].len); }

  private:
    std::vector<Py_buffer> views_;
};

[[noreturn]] inline void refuse(const std::string& why) { throw nb::value_error(why.c_str()); }

inline const Path& path_of(const std::string& name) {
    for (const Path* const* path = available_paths(); *path; ++path) {
        if (name == (*path)->name) return **path;
    }
    refuse("this machine has no kernels named " + name);
}

}  // namespace shosoin
