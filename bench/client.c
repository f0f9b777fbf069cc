/* The client of `make bench`: loads a PKCS#11 module as any application does, and times single operations.
 *
 *   client prepare MODULE LABEL OBJECTS        makes the keys and so many small data objects in a token
 *   client serve MODULE LABEL OBJECTS LOGINS   measures; the tokens of that label have the keys, the objects that
 *                                              `find` searches, and the key that `login` finds after a login
 *
 * The first line of standard input is the user PIN, empty for a login without one. `serve` says `{}` when it is ready,
 * then obeys lines `OPERATION SECONDS THREADS` and answers each with one line of JSON; times are in microseconds. The
 * first CK_RV that is not CKR_OK ends the client with a line `error: CALL: CK_RV`.
 */
#define CRYPTOKI_COMPAT 1
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <p11-kit/pkcs11.h>

#define MIB (1UL << 20)
#define MOST_THREADS 64
#define LEAST_ROUNDS 3
#define COUNT(array) (sizeof(array) / sizeof(*(array)))
#define CHECK(call, ...) check(#call, module->call(__VA_ARGS__))

static CK_FUNCTION_LIST_PTR module;
static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
static char pin[256];

/* The tokens; the first two have a session that stands, logged in. Nobody but `login` opens one on the third. */
static CK_SLOT_ID keys, objects, logins;
static CK_SESSION_HANDLE keys_session, objects_session;
static CK_OBJECT_HANDLE aes_key, hmac_key, ec_key, rsa_key;

/* What one thread works with. */
struct worker {
    CK_SESSION_HANDLE session;
    unsigned char *data, *output;
    double seconds, elapsed;
    float *times;
    size_t count, room;
    const struct operation *operation;
    pthread_barrier_t *start;
};

struct operation {
    const char *name;
    void (*run)(struct worker *);
    CK_ULONG size; /* of its data, bytes */
};

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("error: ", stdout);
    vprintf(format, arguments);
    putchar('\n');
    fflush(stdout);
    _Exit(1); /* other threads may be inside the module */
}

static void check(const char *call, CK_RV rv)
{
    if (rv != CKR_OK)
        fail("%s: CK_RV 0x%08lx", call, rv);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* --- the module, its tokens, what is in them */

static void load(const char *path)
{
    CK_C_INITIALIZE_ARGS arguments = {.flags = CKF_OS_LOCKING_OK};
    CK_C_GetFunctionList list;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fail("%s", dlerror());
    *(void **)&list = dlsym(library, "C_GetFunctionList");
    if (!list)
        fail("%s", dlerror());
    check("C_GetFunctionList", list(&module));
    CHECK(C_Initialize, &arguments);
}

static CK_SLOT_ID slot_of(const char *label)
{
    CK_SLOT_ID slots[1024];
    CK_ULONG count = COUNT(slots);
    CHECK(C_GetSlotList, CK_TRUE, slots, &count);
    for (CK_ULONG i = 0; i < count; i++) {
        CK_TOKEN_INFO info;
        char padded[sizeof info.label + 1];
        CHECK(C_GetTokenInfo, slots[i], &info);
        snprintf(padded, sizeof padded, "%-*s", (int)sizeof info.label, label);
        if (!memcmp(info.label, padded, sizeof info.label))
            return slots[i];
    }
    fail("no token `%s`", label);
    return 0;
}

static CK_SESSION_HANDLE open_session(CK_SLOT_ID slot)
{
    CK_SESSION_HANDLE session;
    CHECK(C_OpenSession, slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session);
    return session;
}

static CK_SESSION_HANDLE enter(CK_SLOT_ID slot)
{
    CK_SESSION_HANDLE session = open_session(slot);
    CHECK(C_Login, session, CKU_USER, *pin ? (CK_UTF8CHAR *)pin : NULL, strlen(pin));
    return session;
}

/* The one object of that label and class. */
static CK_OBJECT_HANDLE find(CK_SESSION_HANDLE session, const char *label, CK_OBJECT_CLASS class)
{
    CK_OBJECT_HANDLE found[2];
    CK_ULONG count = 0;
    CK_ATTRIBUTE template[] = {{CKA_LABEL, (void *)label, strlen(label)}, {CKA_CLASS, &class, sizeof class}};
    CHECK(C_FindObjectsInit, session, template, COUNT(template));
    CHECK(C_FindObjects, session, found, COUNT(found), &count);
    CHECK(C_FindObjectsFinal, session);
    if (count != 1)
        fail("C_FindObjects: %lu objects are called `%s`", count, label);
    return found[0];
}

static void make_key(CK_SESSION_HANDLE session, CK_MECHANISM_TYPE type, const char *label, CK_ULONG length)
{
    CK_MECHANISM mechanism = {type, NULL, 0};
    CK_OBJECT_HANDLE key;
    CK_ATTRIBUTE template[] = {
        {CKA_TOKEN, &yes, 1}, {CKA_PRIVATE, &yes, 1}, {CKA_LABEL, (void *)label, strlen(label)},
        {CKA_VALUE_LEN, &length, sizeof length},
        {type == CKM_AES_KEY_GEN ? CKA_ENCRYPT : CKA_SIGN, &yes, 1},
    };
    CHECK(C_GenerateKey, session, &mechanism, template, COUNT(template), &key);
}

static void make_pair(CK_SESSION_HANDLE session, CK_MECHANISM_TYPE type, const char *label, CK_ATTRIBUTE size)
{
    CK_MECHANISM mechanism = {type, NULL, 0};
    CK_OBJECT_HANDLE public_key, private_key;
    CK_ATTRIBUTE public[] = {{CKA_TOKEN, &yes, 1}, {CKA_LABEL, (void *)label, strlen(label)}, {CKA_VERIFY, &yes, 1}, size};
    CK_ATTRIBUTE private[] = {
        {CKA_TOKEN, &yes, 1}, {CKA_PRIVATE, &yes, 1}, {CKA_LABEL, (void *)label, strlen(label)},
        {CKA_SIGN, &yes, 1}, {CKA_ID, (void *)label, strlen(label)}, {CKA_EXTRACTABLE, &no, 1},
    };
    CHECK(C_GenerateKeyPair, session, &mechanism, public, COUNT(public), private, COUNT(private), &public_key, &private_key);
}

static void make_object(CK_SESSION_HANDLE session, CK_ULONG number)
{
    CK_OBJECT_CLASS data = CKO_DATA;
    CK_OBJECT_HANDLE object;
    char label[32], value[16] = {0};
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &data, sizeof data}, {CKA_TOKEN, &yes, 1}, {CKA_PRIVATE, &yes, 1},
        {CKA_LABEL, label, 0}, {CKA_VALUE, value, sizeof value},
    };
    template[3].ulValueLen = snprintf(label, sizeof label, "object-%lu", number);
    CHECK(C_CreateObject, session, template, COUNT(template), &object);
}

static void prepare(const char *label, CK_ULONG count)
{
    static unsigned char p256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
    CK_SESSION_HANDLE session = enter(slot_of(label));
    CK_ULONG bits = 2048;
    make_key(session, CKM_AES_KEY_GEN, "bench-aes", 32);
    make_key(session, CKM_GENERIC_SECRET_KEY_GEN, "bench-hmac", 32);
    make_pair(session, CKM_EC_KEY_PAIR_GEN, "bench-ec", (CK_ATTRIBUTE){CKA_EC_PARAMS, p256, sizeof p256});
    make_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, "bench-rsa", (CK_ATTRIBUTE){CKA_MODULUS_BITS, &bits, sizeof bits});
    for (CK_ULONG number = 0; number < count; number++)
        make_object(session, number);
}

/* --- the operations: what is timed, one round each */

static void session_info(struct worker *w)
{
    CK_SESSION_INFO info;
    CHECK(C_GetSessionInfo, w->session, &info);
}

static void random_bytes(struct worker *w)
{
    CHECK(C_GenerateRandom, w->session, w->output, w->operation->size);
}

static void digest(struct worker *w)
{
    CK_MECHANISM mechanism = {CKM_SHA256, NULL, 0};
    CK_ULONG length = MIB;
    CHECK(C_DigestInit, w->session, &mechanism);
    CHECK(C_Digest, w->session, w->data, w->operation->size, w->output, &length);
}

static void sign(struct worker *w, CK_MECHANISM_TYPE type, CK_OBJECT_HANDLE key)
{
    CK_MECHANISM mechanism = {type, NULL, 0};
    CK_ULONG length = MIB;
    CHECK(C_SignInit, w->session, &mechanism, key);
    CHECK(C_Sign, w->session, w->data, w->operation->size, w->output, &length);
}

static void hmac(struct worker *w) { sign(w, CKM_SHA256_HMAC, hmac_key); }
static void ecdsa(struct worker *w) { sign(w, CKM_ECDSA, ec_key); }
static void rsa(struct worker *w) { sign(w, CKM_SHA256_RSA_PKCS, rsa_key); }

static void encrypt(struct worker *w)
{
    CK_MECHANISM mechanism = {CKM_AES_ECB, NULL, 0};
    CK_ULONG length = MIB;
    CHECK(C_EncryptInit, w->session, &mechanism, aes_key);
    CHECK(C_Encrypt, w->session, w->data, w->operation->size, w->output, &length);
}

static void attributes(struct worker *w)
{
    static const CK_ATTRIBUTE_TYPE wanted[] = {
        CKA_CLASS, CKA_TOKEN, CKA_PRIVATE, CKA_LABEL, CKA_ID,
        CKA_KEY_TYPE, CKA_MODULUS, CKA_PUBLIC_EXPONENT, CKA_SIGN, CKA_SENSITIVE,
    };
    CK_ATTRIBUTE template[COUNT(wanted)];
    for (size_t i = 0; i < COUNT(wanted); i++)
        template[i] = (CK_ATTRIBUTE){wanted[i], w->output + 512 * i, 512};
    CHECK(C_GetAttributeValue, w->session, rsa_key, template, COUNT(wanted));
}

static void find_one(struct worker *w)
{
    find(w->session, "object-7", CKO_DATA);
}

/* The only session that this process has on the token, so that it is a login each time. */
static void login(struct worker *w)
{
    CK_SESSION_HANDLE session = enter(logins);
    (void)w;
    find(session, "bench-ec", CKO_PRIVATE_KEY);
    CHECK(C_CloseSession, session);
}

static const struct operation operations[] = {
    {"session-info", session_info, 0}, {"random-32", random_bytes, 32}, {"sha256-1k", digest, 1024},
    {"hmac-1k", hmac, 1024},           {"ecb-4k", encrypt, 4096},       {"ecb-1m", encrypt, MIB},
    {"ecdsa-p256", ecdsa, 32},         {"rsa-2048", rsa, 32},           {"login", login, 0},
    {"attributes-10", attributes, 0},  {"find", find_one, 0},
};

/* --- measuring */

static void *work(void *argument)
{
    struct worker *w = argument;
    double begin, end, first;
    pthread_barrier_wait(w->start);
    first = end = now();
    while (end < first + w->seconds || w->count < LEAST_ROUNDS) {
        begin = now();
        w->operation->run(w);
        end = now();
        if (w->count == w->room && !(w->times = realloc(w->times, (w->room *= 2) * sizeof *w->times)))
            fail("no memory");
        w->times[w->count++] = (end - begin) * 1e6;
    }
    w->elapsed = end - first;
    return NULL;
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Add up what the threads did, and tell it. */
static void tell(struct worker *workers, int threads)
{
    size_t count = 0;
    double per_second = 0;
    float *all;
    for (int i = 0; i < threads; i++) {
        count += workers[i].count;
        per_second += workers[i].count / workers[i].elapsed;
    }
    if (!(all = malloc(count * sizeof *all)))
        fail("no memory");
    for (size_t i = 0, at = 0; i < (size_t)threads; at += workers[i++].count)
        memcpy(all + at, workers[i].times, workers[i].count * sizeof *all);
    qsort(all, count, sizeof *all, ascending);
    printf("{\"per_second\": %.3f, \"p50\": %.3f, \"p99\": %.3f, \"count\": %zu}\n",
           per_second, all[count / 2], all[count * 99 / 100], count);
    fflush(stdout);
    free(all);
}

static void make_worker(struct worker *w, const struct operation *operation, double seconds, pthread_barrier_t *start)
{
    *w = (struct worker){.operation = operation, .seconds = seconds, .room = 1 << 16, .start = start};
    w->data = calloc(1, MIB);
    w->output = malloc(MIB);
    w->times = malloc(w->room * sizeof *w->times);
    if (!w->data || !w->output || !w->times)
        fail("no memory");
    memset(w->output, 1, MIB); /* its pages are there before the clock runs */
}

static void serve_one(const struct operation *operation, double seconds, int threads)
{
    bool searches = operation->run == find_one;
    struct worker workers[MOST_THREADS];
    pthread_t started[MOST_THREADS];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, threads);
    for (int i = 0; i < threads; i++) {
        make_worker(&workers[i], operation, seconds, &start);
        workers[i].session = searches ? objects_session : keys_session;
        if (i > 0)
            workers[i].session = open_session(searches ? objects : keys);
    }
    for (int i = 1; i < threads; i++)
        if (pthread_create(&started[i], NULL, work, &workers[i]))
            fail("no thread");
    work(&workers[0]);
    for (int i = 1; i < threads; i++) {
        pthread_join(started[i], NULL);
        CHECK(C_CloseSession, workers[i].session);
    }
    tell(workers, threads);
    for (int i = 0; i < threads; i++) {
        free(workers[i].data);
        free(workers[i].output);
        free(workers[i].times);
    }
    pthread_barrier_destroy(&start);
}

static void serve(char **labels)
{
    char line[256], name[64];
    double seconds;
    int threads;
    size_t at;
    keys = slot_of(labels[0]);
    objects = slot_of(labels[1]);
    logins = slot_of(labels[2]);
    keys_session = enter(keys);
    objects_session = objects == keys ? keys_session : enter(objects);
    aes_key = find(keys_session, "bench-aes", CKO_SECRET_KEY);
    hmac_key = find(keys_session, "bench-hmac", CKO_SECRET_KEY);
    ec_key = find(keys_session, "bench-ec", CKO_PRIVATE_KEY);
    rsa_key = find(keys_session, "bench-rsa", CKO_PRIVATE_KEY);
    puts("{}");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%63s %lf %d", name, &seconds, &threads) != 3 || threads < 1 || threads > MOST_THREADS)
            fail("`%.*s` is no line of OPERATION SECONDS THREADS", (int)strcspn(line, "\n"), line);
        for (at = 0; at < COUNT(operations) && strcmp(operations[at].name, name); at++)
            ;
        if (at == COUNT(operations))
            fail("no operation `%s`", name);
        serve_one(&operations[at], seconds, threads);
    }
}

int main(int count, char **words)
{
    bool prepares = count == 5 && !strcmp(words[1], "prepare");
    if (!prepares && (count != 6 || strcmp(words[1], "serve")))
        fail("expected `prepare MODULE LABEL OBJECTS` or `serve MODULE LABEL OBJECTS LOGINS`");
    if (!fgets(pin, sizeof pin, stdin))
        fail("the first line of standard input is the PIN");
    pin[strcspn(pin, "\n")] = 0;
    load(words[2]);
    if (prepares)
        prepare(words[3], strtoul(words[4], NULL, 10));
    else
        serve(words + 3);
    CHECK(C_Finalize, NULL);
    return 0;
}
