#include "runtime/base/status.h"
#include "runtime/base/utf8.h"
#include "runtime/tokenizer/internal.h"

/// The best way to write the piece up to a place.
struct nib_unigram_node {
    double score;
    uint32_t start; ///< where its last token begins
    int32_t id;     ///< its last token; -1: a character without one
    bool reached;
};

static void relax(struct nib_unigram_node *nodes, size_t start, size_t end, double score,
                  int32_t id)
{
    struct nib_unigram_node *node = &nodes[end];
    if (node->reached && !(score > node->score))
        return;
    *node = (struct nib_unigram_node){score, (uint32_t)start, id, true};
}

/// The forward pass of Viterbi's algorithm (Kudo 2018, "Subword Regularization"). Of equal scores
/// the one found first stays, as in Hugging Face's tokenizers.
static void find_best(const struct nib_tokenizer *tokenizer, struct nib_text piece,
                      struct nib_unigram_node *nodes)
{
    for (size_t start = 0; start < piece.size;) {
        uint32_t code_point;
        bool valid;
        size_t character =
            nib_utf8_decode(piece.ptr + start, piece.size - start, &code_point, &valid);
        double score = nodes[start].score;
        bool single = false;
        struct nib_prefix_walk walk;
        bool more = nib_prefix_start(&tokenizer->pieces, (uint8_t)piece.ptr[start], &walk);
        while (more) {
            const struct nib_prefix_entry *entry = nib_prefix_whole(&tokenizer->pieces, &walk);
            if (entry) {
                relax(nodes, start, start + walk.depth, score + tokenizer->tokens[entry->id].score,
                      entry->id);
                single = single || walk.depth == character;
            }
            more =
                start + walk.depth < piece.size &&
                nib_prefix_step(&tokenizer->pieces, (uint8_t)piece.ptr[start + walk.depth], &walk);
        }
        if (!single)
            relax(nodes, start, start + character, score + tokenizer->unknown_score, -1);
        start += character;
    }
}

enum nib_status nib_unigram_encode(struct nib_encoder *encoder, struct nib_text piece,
                                   struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    encoder->after_unknown = false;
    if (piece.size == 0)
        return NIB_OK;
    NIB_TRY(nib_array_reserve((void **)&encoder->nodes, &encoder->nodes_capacity, piece.size + 1,
                              sizeof *encoder->nodes, err));
    struct nib_unigram_node *nodes = encoder->nodes;
    for (size_t i = 0; i <= piece.size; i++)
        nodes[i] = (struct nib_unigram_node){0};
    find_best(encoder->tokenizer, piece, nodes);

    // Turns the links around: each end then leads to the end of the token after it.
    uint32_t next = 0;
    for (uint32_t end = (uint32_t)piece.size; end > 0;) {
        uint32_t start = nodes[end].start;
        nodes[end].start = next;
        next = end;
        end = start;
    }
    uint32_t start = 0;
    for (uint32_t end = next; end > 0; end = nodes[end].start) {
        if (nodes[end].id >= 0)
            NIB_TRY(nib_encoder_push(encoder, nodes[end].id, err));
        else
            NIB_TRY(nib_encoder_push_missing(
                encoder, (struct nib_text){piece.ptr + start, end - start}, err));
        start = end;
    }
fail:
    return status;
}
