/* Drives block_loop.c under a sanitizer with the system's libcrypto: runs of every length in rooms that just hold them, sealed,
 * changed and opened; libcrypto's calls fail now and then. Everything follows from the seed.
 *
 *     block_loop_harness SEED ROUNDS
 *
 * What was seen is printed as a count per outcome; anything wrong aborts.
 */
#include "block_loop.c"
#include <dlfcn.h>
#include <stdio.h>

#define require(condition) do { if (!(condition)) { fprintf(stderr, "line %d: %s\n", __LINE__, #condition); abort(); } } while (0)

static u64 state;

static u64 draw(u64 below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % below;
}

static struct evp real;
static u64 until; /* calls until one fails; 0: none will */

static int fails(void) { return until && --until == 0; }

static int copy(void *to, const void *from) { return fails() ? 0 : real.context_copy(to, from); }
static int control(void *c, int what, int number, void *at) { return fails() ? 0 : real.control(c, what, number, at); }
static int init(void *c, const void *type, void *engine, const u8 *key, const u8 *iv, int way)
{
    return fails() ? 0 : real.init(c, type, engine, key, iv, way);
}
static int update(void *c, u8 *out, int *length, const u8 *in, int count) { return fails() ? 0 : real.update(c, out, length, in, count); }
static int final(void *c, u8 *out, int *length) { return fails() ? 0 : real.final(c, out, length); }
static void *new_(void) { return fails() ? NULL : real.context_new(); }

static u8 *noise(u64 length) /* exactly so long, and where it has none, none may be touched */
{
    u8 *bytes = malloc(length ? length : 1);
    require(bytes);
    for (u64 i = 0; i < length; i++) bytes[i] = (u8)draw(256);
    return bytes;
}

static int is_zero(const u8 *bytes, u64 length)
{
    for (u64 i = 0; i < length; i++) if (bytes[i]) return 0;
    return 1;
}

enum { OPENED, REFUSED, BROKEN, SEEN };
static u64 seen[SEEN];

static struct worker *made(const struct evp *evp, int cipher, int encrypt, const u8 *key, const u8 *associated)
{
    struct worker *w = kv_blocks_new(evp, cipher, encrypt, key, associated);
    if (!w || draw(2)) return w;
    struct worker *other = kv_blocks_copy(w);
    kv_blocks_free(w);
    return other;
}

static void one_round(const struct evp *evp)
{
    u64 count = draw(9), first = draw(4) ? draw(1000) : ~(u64)0 - draw(1000) - 64;
    u8 *key = noise(64), *associated = noise(ASSOCIATED), *plain = noise(count * BLOCK);
    u8 *stored = noise(count * BLOCK), *tags = noise(count * TAG), *out = noise(count * BLOCK);
    int cipher = draw(3) ? GCM : XTS;
    until = draw(3) ? 0 : 1 + draw(60);
    struct worker *seals = made(evp, cipher, 1, key, associated), *opens = made(evp, cipher, 0, key, associated);
    if (!seals || !opens) { seen[BROKEN]++; goto end; }
    int64_t outcome = cipher == GCM ? kv_seal_gcm(seals, first, count, plain, stored, tags)
                                    : kv_run_xts(seals, first, count, plain, stored);
    if (outcome == FAILED) {
        require(is_zero(stored, count * BLOCK));
        seen[BROKEN]++;
        goto end;
    }
    require(outcome == DONE);
    u64 changed = count, at = 0, may_fail = until != 0;
    if (cipher == GCM && count && draw(2)) {
        at = draw(count * (BLOCK + TAG));
        changed = at < count * BLOCK ? at / BLOCK : (at - count * BLOCK) / TAG;
        *(at < count * BLOCK ? stored + at : tags + at - count * BLOCK) ^= (u8)(1 << draw(8));
    }
    outcome = cipher == GCM ? kv_open_gcm(opens, first, count, stored, tags, out) : kv_run_xts(opens, first, count, stored, out);
    if (outcome == DONE) {
        require(changed == count && !memcmp(out, plain, count * BLOCK));
        seen[OPENED]++;
    } else if (outcome == FAILED) {
        require(may_fail);
        for (u64 i = 0; i < count; i++)
            require(is_zero(out + i * BLOCK, BLOCK) || (cipher == GCM && i < changed && !memcmp(out + i * BLOCK, plain + i * BLOCK, BLOCK)));
        seen[BROKEN]++;
    } else {
        u64 bad = (u64)outcome;
        require(cipher == GCM && bad < count && (bad == changed || may_fail));
        require(!memcmp(out, plain, bad * BLOCK) && is_zero(out + bad * BLOCK, (count - bad) * BLOCK));
        seen[REFUSED]++;
    }
end:
    kv_blocks_free(seals);
    kv_blocks_free(opens);
    free(key), free(associated), free(plain), free(stored), free(tags), free(out);
}

int main(int count, char **words)
{
    require(count == 3);
    state = strtoull(words[1], NULL, 10);
    void *crypto = dlopen("libcrypto.so.3", RTLD_NOW);
    require(crypto);
    static const char *const names[] = {
        "EVP_aes_256_gcm", "EVP_aes_256_xts", "EVP_CIPHER_CTX_new", "EVP_CIPHER_CTX_free", "EVP_CIPHER_CTX_copy",
        "EVP_CIPHER_CTX_ctrl", "EVP_CipherInit_ex", "EVP_CipherUpdate", "EVP_CipherFinal_ex", "OPENSSL_cleanse",
    };
    require(sizeof names / sizeof *names * sizeof(void *) == sizeof real);
    for (u64 i = 0; i < sizeof names / sizeof *names; i++) {
        void *function = dlsym(crypto, names[i]);
        require(function);
        memcpy((u8 *)&real + i * sizeof function, &function, sizeof function);
    }
    struct evp evp = real;
    evp.context_new = new_, evp.context_copy = copy, evp.control = control;
    evp.init = init, evp.update = update, evp.final = final;
    for (u64 rounds = strtoull(words[2], NULL, 10); rounds; rounds--) one_round(&evp);
    printf("opened %lu refused %lu broken %lu\n", (unsigned long)seen[OPENED], (unsigned long)seen[REFUSED], (unsigned long)seen[BROKEN]);
    return 0;
}
