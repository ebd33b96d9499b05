/// The directory of tensors of one or several mapped files, the same for every container.
#ifndef RUNTIME_FORMATS_TENSOR_H
#define RUNTIME_FORMATS_TENSOR_H

#include "runtime/base/arena.h"
#include "runtime/base/os.h"
#include "runtime/base/string_map.h"

/// Element types of containers: identifier, name, then elements and bytes of one block. The block
/// formats of GGUF keep the names of the table of formats.
#define NIB_DTYPES(X)             \
    X(F32, "f32", 1, 4)           \
    X(F16, "f16", 1, 2)           \
    X(BF16, "bf16", 1, 2)         \
    X(F64, "f64", 1, 8)           \
    X(F8_E4M3, "f8_e4m3", 1, 1)   \
    X(F8_E5M2, "f8_e5m2", 1, 1)   \
    X(BOOL, "bool", 1, 1)         \
    X(I8, "i8", 1, 1)             \
    X(U8, "u8", 1, 1)             \
    X(I16, "i16", 1, 2)           \
    X(U16, "u16", 1, 2)           \
    X(I32, "i32", 1, 4)           \
    X(U32, "u32", 1, 4)           \
    X(I64, "i64", 1, 8)           \
    X(U64, "u64", 1, 8)           \
    X(Q4_0, "q4_0", 32, 18)       \
    X(Q4_1, "q4_1", 32, 20)       \
    X(Q5_0, "q5_0", 32, 22)       \
    X(Q5_1, "q5_1", 32, 24)       \
    X(Q8_0, "q8_0", 32, 34)       \
    X(Q2_K, "q2_k", 256, 84)      \
    X(Q3_K, "q3_k", 256, 110)     \
    X(Q4_K, "q4_k", 256, 144)     \
    X(Q5_K, "q5_k", 256, 176)     \
    X(Q6_K, "q6_k", 256, 210)     \
    X(IQ4_NL, "iq4_nl", 32, 18)   \
    X(IQ4_XS, "iq4_xs", 256, 136) \
    X(MXFP4, "mxfp4", 32, 17)

enum nib_dtype {
#define X(id, ...) NIB_DTYPE_##id,
    NIB_DTYPES(X)
#undef X
        NIB_DTYPE_COUNT
};
/// Returns the type's name; static.
const char *nib_dtype_name(enum nib_dtype dtype);

/// One tensor. `data` points into a map; its size was checked against the file's.
struct nib_tensor {
    const char *name; ///< terminated, owned by the directory
    enum nib_dtype dtype;
    uint32_t n_dims;     ///< 0 to 4; 0 is a scalar
    uint64_t dims[4];    ///< row-major, slowest first; unused ones are 1
    const uint8_t *data; ///< not always aligned to its elements
    uint64_t size;       ///< bytes
    uint32_t file;       ///< index of the map
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

/// For the parsers and writers of this folder.

/// Computes the bytes of a tensor from its dtype and dims. Errors: argument (more than four
/// dimensions), format (a row that is no whole number of blocks, or a size beyond 64 bits), in the
/// words "tensor 'name' ...".
enum nib_status nib_tensor_compute_size(const struct nib_tensor *tensor, uint64_t *out_size,
                                        struct nib_error *err);
/// Enters tensors[index], whose name is set, in `by_name`. Errors: format (the name is there
/// already), memory.
enum nib_status nib_tensor_directory_enter(struct nib_tensor_directory *directory, uint32_t index,
                                           struct nib_error *err);
/// Hands `map` over to an empty directory, which closes it from then on. Errors: memory (the map
/// stays the caller's).
enum nib_status nib_tensor_directory_own_map(struct nib_tensor_directory *directory,
                                             struct nib_arena *arena,
                                             const struct nib_file_map *map, struct nib_error *err);
/// Moves the tensors and maps of parts[1 .. n_parts) into parts[0], each of them made of one map;
/// `arena` is that of parts[0]. After a failure the directories can only be closed. Errors: format
/// (a name in two parts), memory.
enum nib_status nib_tensor_directory_merge(struct nib_tensor_directory *const *parts,
                                           uint32_t n_parts, struct nib_arena *arena,
                                           struct nib_error *err);
/// Closes the maps and frees the map of names.
void nib_tensor_directory_close(struct nib_tensor_directory *directory);

#endif
