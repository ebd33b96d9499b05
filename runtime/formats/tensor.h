/// The directory of tensors of one or several mapped files, the same for every container.
#ifndef RUNTIME_FORMATS_TENSOR_H
#define RUNTIME_FORMATS_TENSOR_H

#include "runtime/base/os.h"
#include "runtime/base/string_map.h"

/// Element types of containers. The block formats of GGUF keep the names of the table of formats.
#define NIB_DTYPES(X)                                                                             \
    X(F32, "f32") X(F16, "f16") X(BF16, "bf16") X(F64, "f64") X(F8_E4M3, "f8_e4m3")               \
    X(F8_E5M2, "f8_e5m2") X(BOOL, "bool") X(I8, "i8") X(U8, "u8") X(I16, "i16") X(U16, "u16")     \
    X(I32, "i32") X(U32, "u32") X(I64, "i64") X(U64, "u64") X(Q4_0, "q4_0") X(Q4_1, "q4_1")       \
    X(Q5_0, "q5_0") X(Q5_1, "q5_1") X(Q8_0, "q8_0") X(Q2_K, "q2_k") X(Q3_K, "q3_k")               \
    X(Q4_K, "q4_k") X(Q5_K, "q5_k") X(Q6_K, "q6_k") X(IQ4_NL, "iq4_nl") X(IQ4_XS, "iq4_xs")       \
    X(MXFP4, "mxfp4")

enum nib_dtype {
#define X(id, name) NIB_DTYPE_##id,
    NIB_DTYPES(X)
#undef X
        NIB_DTYPE_COUNT
};
/// Returns the type's name; static.
const char *nib_dtype_name(enum nib_dtype dtype);
/// Returns the number of elements and of bytes in one block of `dtype` (1 element for plain types).
void nib_dtype_block(enum nib_dtype dtype, uint32_t *out_elements, uint32_t *out_bytes);

/// One tensor. `data` points into a map; its size was checked against the file's.
struct nib_tensor {
    const char *name; ///< terminated, owned by the directory
    enum nib_dtype dtype;
    uint32_t n_dims;  ///< 0 to 4; 0 is a scalar
    uint64_t dims[4]; ///< row-major, slowest first; unused ones are 1
    const uint8_t *data;
    uint64_t size; ///< bytes
    uint32_t file; ///< index of the map
};

/// Tensors by position and by name. Names are unique.
struct nib_tensor_directory {
    struct nib_tensor *tensors;
    uint32_t n_tensors;
    struct nib_string_map by_name;
    struct nib_file_map *maps; ///< one per file
    uint32_t n_maps;
};

/// Returns the tensor called `name`, or NULL.
const struct nib_tensor *nib_tensor_find(const struct nib_tensor_directory *directory,
                                         const char *name);
/// Tells the system that bytes [offset, offset + size) of the tensor will not be read again.
void nib_tensor_drop(const struct nib_tensor_directory *directory, const struct nib_tensor *tensor,
                     uint64_t offset, uint64_t size);

#endif
