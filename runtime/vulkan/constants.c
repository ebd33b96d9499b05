#include "runtime/vulkan/constants.h"

#include <string.h>

#define HEADER_WORDS 5
#define MAGIC 0x07230203u

// Numbers of the SPIR-V specification.
enum {
    OP_TYPE_BOOL = 20,
    OP_CONSTANT_TRUE = 41,
    OP_CONSTANT_FALSE = 42,
    OP_CONSTANT = 43,
    OP_SPEC_CONSTANT_TRUE = 48,
    OP_SPEC_CONSTANT_FALSE = 49,
    OP_SPEC_CONSTANT = 50,
    OP_SPEC_CONSTANT_OP = 52,
    OP_DECORATE = 71,
    OP_I_ADD = 128,
    OP_I_SUB = 130,
    OP_I_MUL = 132,
    OP_U_DIV = 134,
    OP_U_MOD = 137,
    OP_LOGICAL_OR = 166,
    OP_LOGICAL_AND = 167,
    OP_LOGICAL_NOT = 168,
    OP_SELECT = 169,
    OP_I_EQUAL = 170,
    OP_I_NOT_EQUAL = 171,
    OP_U_GREATER = 172,
    OP_U_GREATER_EQUAL = 174,
    OP_U_LESS = 176,
    OP_U_LESS_EQUAL = 178,
    DECORATION_SPEC_ID = 1,
    MAX_OPERANDS = 3,
};

struct module {
    const uint32_t *values;
    uint32_t n_values;
    uint32_t bool_type; ///< its id
    struct nib_vk_constant *ids;
};

/// Computes an operation of numbers of 32 bits and bools. Returns false for another one.
static bool compute(uint32_t op, const uint32_t *x, uint32_t *out)
{
    switch (op) {
    case OP_I_ADD:
        return *out = x[0] + x[1], true;
    case OP_I_SUB:
        return *out = x[0] - x[1], true;
    case OP_I_MUL:
        return *out = x[0] * x[1], true;
    case OP_U_DIV:
        return *out = x[1] ? x[0] / x[1] : 0, x[1] != 0;
    case OP_U_MOD:
        return *out = x[1] ? x[0] % x[1] : 0, x[1] != 0;
    case OP_LOGICAL_OR:
        return *out = x[0] | x[1], true;
    case OP_LOGICAL_AND:
        return *out = x[0] & x[1], true;
    case OP_LOGICAL_NOT:
        return *out = !x[0], true;
    case OP_SELECT:
        return *out = x[0] ? x[1] : x[2], true;
    case OP_I_EQUAL:
        return *out = x[0] == x[1], true;
    case OP_I_NOT_EQUAL:
        return *out = x[0] != x[1], true;
    case OP_U_GREATER:
        return *out = x[0] > x[1], true;
    case OP_U_GREATER_EQUAL:
        return *out = x[0] >= x[1], true;
    case OP_U_LESS:
        return *out = x[0] < x[1], true;
    case OP_U_LESS_EQUAL:
        return *out = x[0] <= x[1], true;
    default:
        return false;
    }
}

/// Finds the value of the constant that the instruction is. Returns whether it is known.
static bool find_value(const struct module *m, const uint32_t *w, uint32_t length, uint32_t *out)
{
    uint32_t op = w[0] & 0xffff, operands[MAX_OPERANDS] = {0};
    switch (op) {
    case OP_CONSTANT_TRUE:
    case OP_CONSTANT_FALSE:
        *out = op == OP_CONSTANT_TRUE;
        return true;
    case OP_CONSTANT:
        *out = w[3];
        return length == 4;
    case OP_SPEC_CONSTANT_TRUE:
    case OP_SPEC_CONSTANT_FALSE:
    case OP_SPEC_CONSTANT:
        if (m->ids[w[2]].spec == 0)
            return false;
        *out = m->values[m->ids[w[2]].spec - 1];
        return op != OP_SPEC_CONSTANT || length == 4;
    case OP_SPEC_CONSTANT_OP:
        if (length < 5 || length > 4 + MAX_OPERANDS)
            return false;
        for (uint32_t i = 4; i < length; i++) {
            if (!m->ids[w[i]].is_known)
                return false;
            operands[i - 4] = m->ids[w[i]].value;
        }
        return compute(w[3], operands, out);
    default:
        return false;
    }
}

/// Changes an instruction in place; returns the words that it has then, 0 where it is gone.
static uint32_t change(struct module *m, uint32_t *w, uint32_t length)
{
    uint32_t op = w[0] & 0xffff, value;
    if (op == OP_TYPE_BOOL)
        m->bool_type = w[1];
    if (op == OP_DECORATE && length == 4 && w[2] == DECORATION_SPEC_ID && w[3] < m->n_values) {
        m->ids[w[1]].spec = w[3] + 1;
        return 0;
    }
    if (!find_value(m, w, length, &value))
        return length;
    bool is_bool = w[1] == m->bool_type;
    value = is_bool ? value != 0 : value;
    m->ids[w[2]].is_known = true;
    m->ids[w[2]].value = value;
    length = is_bool ? 3 : 4;
    w[0] = length << 16 | (uint32_t)(!is_bool ? OP_CONSTANT
                                     : value  ? OP_CONSTANT_TRUE
                                              : OP_CONSTANT_FALSE);
    if (!is_bool)
        w[3] = value;
    return length;
}

size_t nib_vk_set_constants(uint32_t *words, size_t n_words, const uint32_t *values,
                            uint32_t n_values, struct nib_vk_constant *ids)
{
    if (n_words < HEADER_WORDS || words[0] != MAGIC)
        return n_words;
    memset(ids, 0, words[3] * sizeof *ids);
    struct module m = {.values = values, .n_values = n_values, .ids = ids};
    size_t left = HEADER_WORDS;
    for (size_t i = HEADER_WORDS; i < n_words;) {
        uint32_t length = words[i] >> 16, stays = change(&m, words + i, length);
        memmove(words + left, words + i, stays * sizeof *words);
        left += stays;
        i += length;
    }
    return left;
}
