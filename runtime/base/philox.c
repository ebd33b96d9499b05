#include "runtime/base/philox.h"

void nib_philox_block(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
    uint32_t k[2] = {key[0], key[1]};
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xd2511f53u * c[0];
        uint64_t p1 = (uint64_t)0xcd9e8d57u * c[2];
        uint32_t c0 = (uint32_t)(p1 >> 32) ^ c[1] ^ k[0];
        uint32_t c2 = (uint32_t)(p0 >> 32) ^ c[3] ^ k[1];
        c[0] = c0;
        c[1] = (uint32_t)p1;
        c[2] = c2;
        c[3] = (uint32_t)p0;
        k[0] += 0x9e3779b9u; // the golden ratio
        k[1] += 0xbb67ae85u; // sqrt(3) - 1
    }
    for (int i = 0; i < 4; i++)
        out[i] = c[i];
}

void nib_philox(uint64_t seed, uint64_t counter, uint32_t out[4])
{
    const uint32_t block[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), 0, 0};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    nib_philox_block(block, key, out);
}

float nib_philox_uniform(uint64_t seed, uint64_t counter)
{
    uint32_t words[4];
    nib_philox(seed, counter, words);
    return (float)(words[0] >> 8) * 0x1p-24f;
}
