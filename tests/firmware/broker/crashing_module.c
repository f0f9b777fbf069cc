/* A PKCS#11 module that crashes on demand: SoftHSM, but C_SeedRandom with the bytes "crash" is a signal 11.
 *
 * REAL is the path of SoftHSM, SEED_RANDOM the index of C_SeedRandom in the function list. Each instance of this
 * module maps a copy of SoftHSM of its own: the gate makes private instances by copying the library's file, and the
 * loader would otherwise hand all of them the same SoftHSM. */

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long word;
typedef word (*seed_random)(word session, unsigned char *seed, word length);

static struct {
    unsigned char version[2];
    void *calls[68];
} list;
static seed_random real;

static word seed_or_crash(word session, unsigned char *seed, word length) {
    if (length == 5 && memcmp(seed, "crash", 5) == 0)
        raise(SIGSEGV);
    return real(session, seed, length);
}

static void *private_copy(void) {
    char name[] = "/tmp/crashing-module-XXXXXX", data[1 << 16];
    int from = open(REAL, O_RDONLY | O_CLOEXEC), to = mkstemp(name);
    ssize_t length;
    while (from >= 0 && to >= 0 && (length = read(from, data, sizeof data)) > 0)
        if (write(to, data, length) != length)
            break;
    close(from);
    close(to);
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    unlink(name);
    return library;
}

word C_GetFunctionList(void **answer) {
    void *library = list.calls[0] ? NULL : private_copy(), *found;
    if (library) {
        word (*get)(void **) = (word (*)(void **))dlsym(library, "C_GetFunctionList");
        if (!get || get(&found))
            return 5; /* CKR_GENERAL_ERROR */
        memcpy(&list, found, sizeof list);
        real = (seed_random)list.calls[SEED_RANDOM];
        list.calls[SEED_RANDOM] = (void *)seed_or_crash;
    }
    *answer = &list;
    return list.calls[0] ? 0 : 5;
}
