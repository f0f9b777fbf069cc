/* Runs of blocks, encrypted and decrypted with one call each instead of one per block (secure-containers, 2.1, 6.1).
 *
 * The cipher is libcrypto's, whose functions are handed in: no header of it and none of the interpreter is needed to build
 * this. Each step of each block is checked, and what is not wholly done leaves no byte. Knows no layer and no digest.
 *
 *     AES-256-GCM   nonce 0^4 | u64 block, big-endian; additional data: the layer's | u64 block, big-endian; tag 16 bytes
 *     AES-256-XTS   tweak: the block's number, 16 bytes little-endian
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef uint64_t u64;

enum { BLOCK = 4096, TAG = 16, NONCE = 12, ASSOCIATED = 52 };
enum { LAST_BLOCK = 32 }; /* EVP_MAX_BLOCK_LENGTH */
enum { INTERFACE = 1 }; /* grows with every change of a function's arguments */
enum { GET_TAG = 0x10, SET_TAG = 0x11 }; /* EVP_CTRL_AEAD_* */
enum { DECRYPT = 0, ENCRYPT = 1, AS_IT_IS = -1 };
enum cipher { GCM, XTS }; /* block_runs.py: _GCM, _XTS */

/* What a call came to; a number from 0 on is that of the first block that was not sealed at its place. */
enum { DONE = -1, FAILED = -2 };

struct evp { /* functions of libcrypto, in the order of block_runs.py: _FUNCTIONS */
    const void *(*aes_256_gcm)(void);
    const void *(*aes_256_xts)(void);
    void *(*context_new)(void);
    void (*context_free)(void *);
    int (*context_copy)(void *, const void *);
    int (*control)(void *, int, int, void *);
    int (*init)(void *, const void *, void *, const u8 *, const u8 *, int);
    int (*update)(void *, u8 *, int *, const u8 *, int);
    int (*final)(void *, u8 *, int *);
    void (*cleanse)(void *, size_t);
};

struct worker { /* a key, set up for one direction; one thread at a time */
    struct evp evp;
    void *context;
    u8 associated[ASSOCIATED + 8];
};

u64 kv_blocks_layout(void) { return (u64)INTERFACE << 32 | sizeof(struct evp); }

void kv_blocks_free(struct worker *w)
{
    if (!w) return;
    if (w->context) w->evp.context_free(w->context); /* which wipes the key */
    free(w);
}

static struct worker *worker(const struct evp *evp)
{
    struct worker *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->evp = *evp;
    w->context = evp->context_new();
    if (w->context) return w;
    kv_blocks_free(w);
    return NULL;
}

/* NULL where libcrypto would not. `associated` has 52 bytes. */
struct worker *kv_blocks_new(const struct evp *evp, int cipher, int encrypt, const u8 *key, const u8 *associated)
{
    struct worker *w = worker(evp);
    if (!w) return NULL;
    memcpy(w->associated, associated, ASSOCIATED);
    const void *type = cipher == GCM ? evp->aes_256_gcm() : evp->aes_256_xts();
    if (type && evp->init(w->context, type, NULL, key, NULL, encrypt ? ENCRYPT : DECRYPT) == 1) return w;
    kv_blocks_free(w);
    return NULL;
}

/* The same for another thread. NULL where libcrypto would not. */
struct worker *kv_blocks_copy(const struct worker *other)
{
    struct worker *w = worker(&other->evp);
    if (!w) return NULL;
    memcpy(w->associated, other->associated, sizeof w->associated);
    if (w->evp.context_copy(w->context, other->context) == 1) return w;
    kv_blocks_free(w);
    return NULL;
}

static void put_big(u8 *to, u64 number)
{
    for (int i = 7; i >= 0; i--, number >>= 8) to[i] = (u8)number;
}

static int whole(struct worker *w, u8 *out, const u8 *in)
{
    int length = 0;
    return w->evp.update(w->context, out, &length, in, BLOCK) == 1 && length == BLOCK;
}

/* The nonce, and the additional data. */
static int begin_gcm(struct worker *w, u64 block)
{
    u8 nonce[NONCE] = {0};
    int length = 0;
    put_big(nonce + 4, block);
    put_big(w->associated + ASSOCIATED, block);
    return w->evp.init(w->context, NULL, NULL, NULL, nonce, AS_IT_IS) == 1
        && w->evp.update(w->context, NULL, &length, w->associated, sizeof w->associated) == 1;
}

static int end(struct worker *w)
{
    u8 none[LAST_BLOCK]; /* nothing comes, but that is not taken on trust */
    int length = 0;
    return w->evp.final(w->context, none, &length) == 1 && length == 0;
}

int64_t kv_seal_gcm(struct worker *w, u64 first, u64 count, const u8 *plain, u8 *out, u8 *tags)
{
    for (u64 i = 0; i < count; i++) {
        if (begin_gcm(w, first + i) && whole(w, out + i * BLOCK, plain + i * BLOCK) && end(w)
            && w->evp.control(w->context, GET_TAG, TAG, tags + i * TAG) == 1) continue;
        w->evp.cleanse(out, count * BLOCK);
        return FAILED;
    }
    return DONE;
}

int64_t kv_open_gcm(struct worker *w, u64 first, u64 count, const u8 *stored, const u8 *tags, u8 *out)
{
    for (u64 i = 0; i < count; i++) {
        u8 tag[TAG];
        memcpy(tag, tags + i * TAG, TAG);
        int begun = begin_gcm(w, first + i) && w->evp.control(w->context, SET_TAG, TAG, tag) == 1
            && whole(w, out + i * BLOCK, stored + i * BLOCK);
        if (begun && end(w)) continue;
        w->evp.cleanse(out + i * BLOCK, (count - i) * BLOCK); /* nobody vouches for these bytes */
        return begun ? (int64_t)i : FAILED;
    }
    return DONE;
}

/* One way or the other, as the worker was made. */
int64_t kv_run_xts(struct worker *w, u64 first, u64 count, const u8 *in, u8 *out)
{
    for (u64 i = 0; i < count; i++) {
        u8 tweak[16] = {0};
        for (int at = 0; at < 8; at++) tweak[at] = (u8)((first + i) >> 8 * at);
        if (w->evp.init(w->context, NULL, NULL, NULL, tweak, AS_IT_IS) == 1 && whole(w, out + i * BLOCK, in + i * BLOCK)) continue;
        w->evp.cleanse(out, count * BLOCK);
        return FAILED;
    }
    return DONE;
}
