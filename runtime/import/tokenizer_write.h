/// The reverse of tokenizer_hf.h: the files of a Hugging Face folder that describe a vocabulary.
#ifndef RUNTIME_IMPORT_TOKENIZER_WRITE_H
#define RUNTIME_IMPORT_TOKENIZER_WRITE_H

#include "runtime/tokenizer/vocab.h"

#include <jansson.h>

/// Makes tokenizer.json and tokenizer_config.json, to be freed with json_decref, of a vocabulary of
/// bytes (NIB_VOCAB_BPE with `pre`) or of SentencePiece BPE (NIB_VOCAB_SPM), whose scores become
/// ranks of merges. `context` goes in as the longest text. Errors: unsupported (another model),
/// memory.
enum nib_status nib_tokenizer_to_files(const struct nib_vocab *vocab, uint32_t context,
                                       json_t **out_tokenizer, json_t **out_config,
                                       struct nib_error *err);

#endif
