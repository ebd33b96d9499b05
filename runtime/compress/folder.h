/// Writers of Hugging Face folders: config.json with a `quantization_config`, safetensors,
/// generation_config.json and the tokenizer's files.
#ifndef RUNTIME_COMPRESS_FOLDER_H
#define RUNTIME_COMPRESS_FOLDER_H

#include "runtime/base/buffer.h"
#include "runtime/compress/compress.h"
#include "runtime/compress/layout.h"
#include "runtime/import/arch.h"

#include <jansson.h>

/// The writer of all folders; what the plan's container asks for differs in layouts and
/// configuration alone.
extern const struct nib_checkpoint_writer nib_folder_writer;

/// Files beyond this size begin another shard, as transformers' do.
#define NIB_SHARD_BYTES UINT64_C(5000000000)

/// A folder in the making, at `temp`; its files are remembered so that they can be removed.
struct nib_folder {
    const struct nib_compress_plan *plan;
    char *path;              ///< where it goes
    char *temp;              ///< where it is written; NULL until it is there
    intptr_t claim;          ///< of nib_os_folder_claim, while temp is not NULL
    struct nib_buffer names; ///< of the files, each terminated
};

/// Makes the name of `name` in the folder, and remembers the file. Errors: memory.
enum nib_status nib_folder_file(struct nib_folder *folder, const char *name,
                                struct nib_buffer *out_path, struct nib_error *err);
/// Writes a JSON file. Errors: io, memory.
enum nib_status nib_folder_json(struct nib_folder *folder, const char *name, const json_t *json,
                                struct nib_error *err);

/// Writes the name that the tensor of `entry` has in the folder.
void nib_folder_name(const struct nib_compress_plan *plan, const struct nib_compress_entry *entry,
                     char out[NIB_ARCH_NAME_SIZE]);
/// Writes the name of the module that the tensor of `entry`, a matrix, belongs to.
void nib_folder_module(const struct nib_compress_plan *plan, const struct nib_compress_entry *entry,
                       char out[NIB_ARCH_NAME_SIZE]);
/// Returns whether tools would quantize the tensor of `entry`: a matrix within the layers.
bool nib_folder_is_inner(const struct nib_compress_entry *entry);
/// Returns torch's name of the type of the model's tensors, "float16"; static.
const char *nib_folder_dtype(const struct nib_compress_plan *plan);
/// Returns the layout of a quantized entry's matrix.
struct nib_layout nib_folder_layout(const struct nib_compress_plan *plan,
                                    const struct nib_compress_entry *entry);

/// Makes config.json; free with json_decref. Errors: unsupported (what transformers' class of the
/// architecture, or the container, cannot describe), io, format, memory.
enum nib_status nib_folder_config(const struct nib_compress_plan *plan, json_t **out_config,
                                  struct nib_error *err);
/// Makes its `quantization_config`, or json_null where nothing is quantized.
/// Errors: unsupported, memory.
enum nib_status nib_folder_quantization(const struct nib_compress_plan *plan,
                                        json_t **out_quantization, struct nib_error *err);
/// Writes all files but those of tensors. Errors: those of nib_folder_config, io.
enum nib_status nib_folder_write_texts(struct nib_folder *folder, struct nib_error *err);

/// Writes of the tensors: as nib_checkpoint_writer's.
struct nib_folder_tensors;
/// Decides which entries share a file; `shard_bytes` is the most that one holds, but for an entry
/// that is larger by itself. Errors: unsupported (what no layout holds), memory.
enum nib_status nib_folder_tensors_create(struct nib_folder *folder, uint64_t shard_bytes,
                                          struct nib_folder_tensors **out_tensors,
                                          struct nib_error *err);
enum nib_status nib_folder_tensors_put_matrix(struct nib_folder_tensors *tensors, uint32_t entry,
                                              const struct nib_quantized_matrix *matrix,
                                              struct nib_error *err);
enum nib_status nib_folder_tensors_put_rows(struct nib_folder_tensors *tensors, uint32_t entry,
                                            uint64_t count, const float *values,
                                            struct nib_error *err);
/// Ends the last file and writes the index of several. Errors: io, state (data is missing), memory.
enum nib_status nib_folder_tensors_finish(struct nib_folder_tensors *tensors,
                                          struct nib_error *err);
void nib_folder_tensors_destroy(struct nib_folder_tensors **tensors);

#endif
