/* The hot loop of a gate: the calls that carry data, from the socket to the module and back, without the interpreter.
 *
 * It answers a request only where Python has decided about it before: the ticket of a session says which calls the
 * filter lets through under which word of the state page, a memo says what one request's exact bytes mean. Everything
 * else, and everything that looks odd, it hands back as it came, and the Python path answers it. It holds no policy,
 * knows no mechanism and no attribute, and never writes what it did not decide about.
 *
 * Layouts are shared with board.py, memos.py and tables.py: every field is eight bytes wide. The wire is described in
 * pkcs11-rpc.md, sections 2 to 5; numbers there are big-endian.
 */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

enum { HEAD = 12, ROWS = 90, NULL_LENGTH = 0xffffffff, FIRST_ROOM = 16384, KEPT_ROOM = 1 << 18 };
enum { AS_BEFORE = 2 }; /* a memo's `heavy` that changes nothing */
enum { CKR_OK = 0, CKR_HOST_MEMORY = 2, CKR_ATTRIBUTE_SENSITIVE = 0x11, CKR_ATTRIBUTE_TYPE_INVALID = 0x12, CKR_BUFFER_TOO_SMALL = 0x150 };

/* How the arguments behind the session travel (tables.py: Shape). */
enum shape { COLD_CALL, MEMO, IN_OUT, OUT, IN, IN_IN, RANDOM };

/* What a memo does (memos.py: Kind). */
enum kind { REPLY, BEGIN, ATTRIBUTES };

/* How the value of an attribute travels (memos.py: CLASSES). */
enum value_class { BYTE, ULONG, BYTES };

/* What the caller has to do next (loop.py: Outcome). Negative numbers are errno. */
enum outcome { ANSWERED, COLD, SLOW, CHANGED, NOTIFY, ENDED, BAD_HEAD, TOO_SLOW, NO_MEMORY };

struct row { /* one call of the table */
    u64 shape, begins, ends, private_key, prefix_length, reply_length;
    u8 prefix[24], reply[24];
};

struct attribute { /* CK_ATTRIBUTE */
    u64 type;
    u8 *value;
    u64 length;
};

struct memo { /* one request whose bytes were decided about before */
    u64 kind, changes, length;
    const u8 *request;
    u64 hole, hole_length; /* bytes of the request that may differ: an IV */
    u8 *hole_to;           /* and where the module finds them */
    u64 mechanism, arity, key, heavy;
    const u8 *reply;
    u64 reply_length, count;
    const struct attribute *asked;
    struct attribute *array;
    const u8 *classes;
};

struct ticket { /* one session */
    u64 handle, real;
    const u64 *word; /* the HSM's word in the state page */
    u64 granted;     /* the word under which `allowed` was decided */
    u64 allowed[2];  /* a bit per call */
    const u64 *functions; /* of the module, by call */
    u64 inside, began, heavy;
    struct memo **memos; /* open addressing; NULL ends a run */
    u64 mask;
};

struct board { /* one connection, as Python keeps it; read with the lock held, but for the limits */
    u64 changes; /* grows whenever a memo may have become wrong */
    u64 waiting; /* threads that wait for something to change on this connection */
    struct ticket **tickets; /* by handle, ascending */
    u64 count;
    u64 most_output, most_options, most_body, slow_body, frame_ns;
};

struct exchange { /* a request, its answer, and the room for both; of one thread at a time */
    u8 *in;
    u64 in_room, begin, end, frame; /* `frame`: bytes of the first frame, its head included */
    u8 *out;
    u64 out_room, out_length;
    const u8 *body;
    u64 length, code;
};

struct connection {
    int fd;
    const struct row *rows;
    struct board *board;
    pthread_mutex_t lock;    /* the connection's monitor: Python takes the same one */
    pthread_mutex_t sending; /* one reply at a time on the socket */
    struct exchange turn;    /* of whoever has the turn to read */
    struct exchange *spare;  /* of a slow call that is done: the next one finds its room there */
    pthread_mutex_t turning; /* guards the three below */
    pthread_cond_t turned;
    int taken, queued, over; /* the turn is taken; threads that wait for it; nobody reads any more */
    int growing;             /* Python can still make a thread to read */
};

typedef u64 (*f2)(u64, u64);
typedef u64 (*f3)(u64, u64, u64);
typedef u64 (*f4)(u64, u64, u64, u64);
typedef u64 (*f5)(u64, u64, u64, u64, u64);

/* --- big-endian numbers */

static u32 get32(const u8 *p) { return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3]; }
static u64 get64(const u8 *p) { return (u64)get32(p) << 32 | get32(p + 4); }
static u8 *put32(u8 *p, u64 v) { for (int i = 0; i < 4; i++) p[i] = (u8)(v >> (24 - 8 * i)); return p + 4; }
static u8 *put64(u8 *p, u64 v) { return put32(put32(p, v >> 32), v); }
static u8 *put(u8 *p, const void *data, u64 length) { memcpy(p, data, length); return p + length; }

/* --- reading a request: every step is held against the end; a step past it makes the request cold */

struct reader { const u8 *at, *end; };

static int read32(struct reader *r, u32 *value)
{
    if (r->end - r->at < 4) return 0;
    *value = get32(r->at);
    r->at += 4;
    return 1;
}

/* `ay`: address and length of the bytes, 0 and 0 for a NULL pointer. */
static int read_bytes(struct reader *r, u64 *address, u64 *length)
{
    u32 announced;
    if (r->end - r->at < 1) return 0;
    int present = *r->at++;
    if (!read32(r, &announced)) return 0;
    *address = *length = 0;
    if (!present || announced == NULL_LENGTH) return 1;
    if ((u64)(r->end - r->at) < announced) return 0;
    *address = (u64)r->at;
    *length = announced;
    r->at += announced;
    return 1;
}

/* --- room */

static int room_for_output(struct exchange *x, u64 length)
{
    if (x->out_room >= length) return 1;
    free(x->out); /* nothing in it is wanted any more */
    x->out = calloc(1, length); /* a module that claims more than it wrote gives zeros away, not what was here before */
    x->out_room = x->out ? length : 0;
    return x->out != NULL;
}

static int room_for_input(struct exchange *x, u64 frame)
{
    if (x->begin && x->in_room - x->begin < frame) {
        memmove(x->in, x->in + x->begin, x->end - x->begin);
        x->end -= x->begin;
        x->begin = 0;
    }
    if (x->in_room - x->begin >= frame && x->in_room > x->end) return 1;
    u64 wanted = frame > FIRST_ROOM ? frame : FIRST_ROOM;
    u8 *grown = realloc(x->in, wanted);
    if (!grown) return 0;
    x->in = grown;
    x->in_room = wanted;
    return 1;
}

void kv_drop(struct exchange *x)
{
    if (!x) return;
    free(x->in);
    free(x->out);
    free(x);
}

/* A connection that sends nothing for a while keeps no large buffers. */
static void shrink(struct connection *c)
{
    struct exchange *x = &c->turn;
    kv_drop(__atomic_exchange_n(&c->spare, NULL, __ATOMIC_ACQ_REL));
    if (x->begin == x->end && x->in_room > KEPT_ROOM) {
        free(x->in);
        x->in = NULL;
        x->in_room = x->begin = x->end = 0;
    }
    if (x->out_room > KEPT_ROOM) {
        free(x->out);
        x->out = NULL;
        x->out_room = 0;
    }
}

/* --- the filter: what Python has decided about the session and the request */

static struct ticket *find(const struct board *board, u64 handle)
{
    u64 low = 0, high = board->count;
    while (low < high) {
        u64 middle = (low + high) / 2;
        if (board->tickets[middle]->handle < handle) low = middle + 1;
        else high = middle;
    }
    return low < board->count && board->tickets[low]->handle == handle ? board->tickets[low] : NULL;
}

static int granted(const struct ticket *t) { return __atomic_load_n(t->word, __ATOMIC_SEQ_CST) == t->granted; }

/* Neither the session's number nor the bytes of a hole may count here: a session has its own memos. */
static u64 place_of(const u8 *body, u64 length, u64 prefix)
{
    u64 first = length >= prefix + 16 ? get64(body + prefix + 8) : 0;
    u64 mixed = (first ^ length ^ (u64)get32(body) << 56) * 0x9e3779b97f4a7c15u + get64(body + length - 8);
    mixed *= 0xc2b2ae3d27d4eb4fu;
    return mixed ^ mixed >> 32;
}

static int matches(const struct memo *m, const u8 *body, u64 length)
{
    u64 behind = m->hole + m->hole_length;
    return m->length == length && !memcmp(m->request, body, m->hole) &&
           !memcmp(m->request + behind, body + behind, length - behind);
}

static struct memo *remembered(const struct ticket *t, const u8 *body, u64 length, u64 prefix)
{
    if (!t->memos) return NULL;
    for (u64 at = place_of(body, length, prefix);; at++) {
        struct memo *m = t->memos[at & t->mask];
        if (!m || matches(m, body, length)) return m;
    }
}

/* --- replies: each leaves `out` with a whole frame */

static void finish(struct exchange *x, const u8 *end)
{
    x->out_length = (u64)(end - x->out);
    put32(put32(put32(x->out, x->code), 0), x->out_length - HEAD);
}

static void reply_error(struct exchange *x, u64 rv)
{
    finish(x, put64(put(x->out + HEAD, "\0\0\0\0\0\0\0\1u", 9), rv));
}

static void reply_attributes(struct exchange *x, const struct row *row, struct memo *m, u64 rv)
{
    u8 *p = put32(put(x->out + HEAD, row->reply, row->reply_length), m->count);
    for (u64 i = 0; i < m->count; i++) {
        struct attribute *a = &m->array[i];
        u64 room = m->asked[i].length;
        p = put32(p, a->type);
        if (a->length == UINT64_MAX) {
            *p++ = 0;
            continue;
        }
        *p++ = 1;
        p = put32(p, a->length);
        int there = a->value && a->length <= room;
        switch (m->classes[i]) {
        case BYTE: *p++ = there && a->length == 1 ? *a->value : 0; break;
        case ULONG: {
            u64 value = 0;
            if (there && a->length == 8) memcpy(&value, a->value, 8);
            p = put64(p, value);
            break;
        }
        default:
            p = put32(p, there ? a->length : NULL_LENGTH);
            if (there) p = put(p, a->value, a->length);
        }
        if (there) memset(a->value, 0, a->length); /* nothing of a key stays behind in a memo */
    }
    finish(x, put64(p, rv));
}

/* --- one request */

struct work { /* a request on its way through the module */
    const struct row *row;
    struct ticket *ticket;
    struct memo *memo;
    u64 id, real, function;
    u64 in, in_length, more, more_length;
    u64 room, size; /* what the client announced, and what it gets */
};

/* The arguments behind the session, and room for the answer. */
static int prepare(struct connection *c, struct exchange *x, struct work *w, struct reader r)
{
    u32 room = 0;
    u64 most = HEAD + sizeof w->row->reply + 64;
    switch (w->row->shape) {
    case MEMO: return room_for_output(x, most);
    case IN_OUT:
        if (!read_bytes(&r, &w->in, &w->in_length)) return 0;
        /* fall through */
    case OUT: case RANDOM:
        if (!read32(&r, &room)) return 0;
        break;
    case IN_IN:
        if (!read_bytes(&r, &w->in, &w->in_length) || !read_bytes(&r, &w->more, &w->more_length)) return 0;
        break;
    default:
        if (!read_bytes(&r, &w->in, &w->in_length)) return 0;
    }
    if (r.at != r.end) return 0;
    w->room = room;
    w->size = room == NULL_LENGTH ? 0 : room;
    if (w->size > c->board->most_output) {
        if (w->row->shape == RANDOM) return 0;
        w->size = c->board->most_output;
    }
    return room_for_output(x, most + w->size);
}

/* With the lock held: whether Python has let this through, and whether it may take long. */
static int enter(struct connection *c, struct exchange *x, struct work *w, int in_turn)
{
    struct ticket *t = w->ticket = find(c->board, get64(x->body + w->row->prefix_length));
    if (!t || t->inside || !t->real || !granted(t) || !(t->allowed[w->id / 64] >> w->id % 64 & 1)) return COLD;
    if (in_turn && w->row->private_key && t->heavy) return SLOW;
    if (w->row->shape == MEMO) {
        w->memo = remembered(t, x->body, x->length, w->row->prefix_length);
        if (!w->memo || w->memo->changes != c->board->changes) return COLD;
    }
    w->real = t->real;
    w->function = t->functions[w->id];
    if (!w->function && !(w->memo && w->memo->kind == REPLY)) return COLD;
    t->inside = 1;
    return ANSWERED;
}

/* In the module, or out of a memo. The CK_RV; `left` is how many bytes of output there are. */
static u64 invoke(struct work *w, u8 *output, u64 *left)
{
    u64 function = w->function;
    u64 address = w->room ? (u64)output : 0;
    struct memo *m = w->memo;
    *left = w->size;
    switch (w->row->shape) {
    case IN_OUT: return ((f5)function)(w->real, w->in, w->in_length, address, (u64)left);
    case OUT: return ((f3)function)(w->real, address, (u64)left);
    case RANDOM: return w->size ? ((f3)function)(w->real, address, w->size) : CKR_OK;
    case IN: return ((f3)function)(w->real, w->in, w->in_length);
    case IN_IN: return ((f5)function)(w->real, w->in, w->in_length, w->more, w->more_length);
    default: break;
    }
    switch (m->kind) {
    case BEGIN:
        return m->arity == 2 ? ((f2)function)(w->real, m->mechanism) : ((f3)function)(w->real, m->mechanism, m->key);
    case ATTRIBUTES:
        memcpy(m->array, m->asked, m->count * sizeof *m->array);
        return ((f4)function)(w->real, m->key, (u64)m->array, m->count);
    default: return CKR_OK;
    }
}

static void reply(struct exchange *x, const struct work *w, u64 rv, u64 left)
{
    const struct row *row = w->row;
    u8 *p = x->out + HEAD;
    if (w->memo && w->memo->kind == ATTRIBUTES &&
        (rv == CKR_OK || rv == CKR_ATTRIBUTE_SENSITIVE || rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_BUFFER_TOO_SMALL)) {
        reply_attributes(x, row, w->memo, rv);
        return;
    }
    if (w->memo && w->memo->kind == REPLY) {
        finish(x, put(p, w->memo->reply, w->memo->reply_length));
        return;
    }
    p = put(p, row->reply, row->reply_length);
    switch (row->shape) {
    case IN_OUT: case OUT:
        if (rv == CKR_BUFFER_TOO_SMALL || (rv == CKR_OK && !w->room)) {
            *p++ = 0;
            finish(x, put32(p, left));
            return;
        }
        /* fall through */
    case RANDOM:
        if (left > w->size) left = w->size;
        if (rv == CKR_OK) {
            *p = 1;
            finish(x, put32(p + 1, left) + left);
            return;
        }
        /* fall through */
    default:
        if (rv == CKR_OK) finish(x, p);
        else reply_error(x, rv);
    }
}

/* Answer the request in `x`: its reply is in `x->out` then. Where the word of the state page changed meanwhile (CHANGED)
 * the session stays `inside`, and the reply must not leave before Python says so. */
static int answer(struct connection *c, struct exchange *x, int in_turn)
{
    struct work w = {0};
    if (x->length < 16) return COLD;
    w.id = get32(x->body);
    if (w.id >= ROWS) return COLD;
    const struct row *row = w.row = &c->rows[w.id];
    if (row->shape == COLD_CALL || x->length < row->prefix_length + 8 ||
        memcmp(x->body, row->prefix, row->prefix_length)) return COLD;
    if (in_turn && x->length > c->board->slow_body) return SLOW;
    struct reader r = {x->body + row->prefix_length + 8, x->body + x->length};
    if (!prepare(c, x, &w, r)) return COLD;

    pthread_mutex_lock(&c->lock);
    int entered = enter(c, x, &w, in_turn);
    struct ticket *t = w.ticket;
    int anew = 0;
    if (entered == ANSWERED) {
        anew = row->begins && !(t->began & row->begins);
        t->began |= row->begins; /* before it has: a logout may come while the module works */
    }
    pthread_mutex_unlock(&c->lock);
    if (entered != ANSWERED) return entered;

    /* The session is ours until `inside` is taken back: nobody closes it, nobody frees its memos. */
    u64 rv = CKR_HOST_MEMORY, left = 0;
    if (!w.memo || room_for_output(x, HEAD + row->reply_length + w.memo->reply_length)) {
        if (w.memo && w.memo->hole_length) memcpy(w.memo->hole_to, x->body + w.memo->hole, w.memo->hole_length);
        rv = invoke(&w, x->out + HEAD + row->reply_length + 5, &left);
        reply(x, &w, rv, left);
    } else if (room_for_output(x, HEAD + sizeof row->reply)) {
        reply_error(x, rv);
    } else abort(); /* there are not even a few bytes: the gate is started again */

    pthread_mutex_lock(&c->lock);
    if (rv != CKR_OK && anew) t->began &= ~row->begins;
    if (rv == CKR_OK && (w.room || row->shape == IN || row->shape == IN_IN)) t->began &= ~row->ends;
    if (rv == CKR_OK && w.memo && w.memo->heavy != AS_BEFORE) t->heavy = w.memo->heavy;
    int changed = !granted(t);
    if (!changed) t->inside = 0;
    u64 waiting = c->board->waiting;
    pthread_mutex_unlock(&c->lock);
    return changed ? CHANGED : waiting ? NOTIFY : ANSWERED;
}

/* --- the socket */

static u64 now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

static int receive(struct connection *c)
{
    struct exchange *x = &c->turn;
    u64 started = 0;
    for (;;) {
        u64 have = x->end - x->begin, frame = HEAD;
        if (have >= HEAD) {
            const u8 *head = x->in + x->begin;
            u64 options = get32(head + 4), body = get32(head + 8);
            x->code = get32(head);
            if (!x->code || options > c->board->most_options || body > c->board->most_body) return BAD_HEAD;
            frame += options + body;
            x->frame = frame;
            x->body = head + HEAD + options;
            x->length = body;
            if (have >= frame) return ANSWERED;
        }
        if (have && !started) started = now();
        else if (have && now() - started > c->board->frame_ns) return TOO_SLOW;
        if (!room_for_input(x, frame)) return NO_MEMORY;
        ssize_t got = recv(c->fd, x->in + x->end, x->in_room - x->end, 0);
        if (got == 0) return ENDED;
        if (got > 0) x->end += (u64)got;
        else if (errno == EAGAIN && !have) shrink(c); /* nothing came for a while, which is no matter between two frames */
        else if (errno != EAGAIN && errno != EINTR) return -errno;
    }
}

static int send_all(struct connection *c, const u8 *data, u64 length)
{
    int failed = 0;
    pthread_mutex_lock(&c->sending);
    while (length && !failed) {
        ssize_t sent = send(c->fd, data, length, MSG_NOSIGNAL);
        if (sent >= 0) {
            data += sent;
            length -= (u64)sent;
        } else if (errno != EINTR) failed = errno;
    }
    pthread_mutex_unlock(&c->sending);
    return -failed;
}

/* --- the turn to read: one thread at a time has it */

static void turn_over(struct connection *c)
{
    pthread_mutex_lock(&c->turning);
    c->taken = 0;
    if (c->queued) pthread_cond_signal(&c->turned);
    pthread_mutex_unlock(&c->turning);
}

/* Wait for the turn. 0 where nobody reads any more. */
int kv_take_turn(struct connection *c)
{
    pthread_mutex_lock(&c->turning);
    c->queued++;
    while (c->taken && !c->over) pthread_cond_wait(&c->turned, &c->turning);
    c->queued--;
    c->taken = 1;
    int reads = !c->over;
    pthread_mutex_unlock(&c->turning);
    return reads;
}

/* With the turn: whether a thread waits for it. It stays so: only whoever has the turn ends a wait. */
int kv_queued(struct connection *c)
{
    pthread_mutex_lock(&c->turning);
    int queued = c->queued > 0;
    pthread_mutex_unlock(&c->turning);
    return queued;
}

void kv_hand_on(struct connection *c) { turn_over(c); }
void kv_set_growing(struct connection *c, int growing) { c->growing = growing; }

/* Nobody reads any more. */
void kv_end_turns(struct connection *c)
{
    pthread_mutex_lock(&c->turning);
    c->over = 1;
    pthread_cond_broadcast(&c->turned);
    pthread_mutex_unlock(&c->turning);
}

static int answer_and_send(struct connection *c, struct exchange *x, int in_turn)
{
    int outcome = answer(c, x, in_turn);
    if (outcome != ANSWERED && outcome != NOTIFY) return outcome;
    int failed = send_all(c, x->out, x->out_length);
    return failed ? failed : outcome;
}

/* --- what loop.py calls; none of them is called for one `exchange` by two threads at a time */

/* The number that says which functions and layouts this was compiled for; loop.py knows the same. */
enum { INTERFACE = 1 };
u64 kv_layout(void) { return (u64)INTERFACE << 48 | sizeof(struct row) << 32 | sizeof(struct memo) << 16 | sizeof(struct ticket) << 8 | sizeof(struct board); }

struct connection *kv_open(const struct row *rows, struct board *board)
{
    struct connection *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->fd = -1;
    c->rows = rows;
    c->board = board;
    pthread_mutex_init(&c->lock, NULL);
    pthread_mutex_init(&c->sending, NULL);
    pthread_mutex_init(&c->turning, NULL);
    pthread_cond_init(&c->turned, NULL);
    return c;
}

void kv_attach(struct connection *c, int fd) { c->fd = fd; }

void kv_close(struct connection *c)
{
    free(c->turn.in);
    free(c->turn.out);
    kv_drop(c->spare);
    pthread_mutex_destroy(&c->lock);
    pthread_mutex_destroy(&c->sending);
    pthread_mutex_destroy(&c->turning);
    pthread_cond_destroy(&c->turned);
    free(c);
}

int kv_try_lock(pthread_mutex_t *lock) { return pthread_mutex_trylock(lock) == 0; }
void kv_lock(pthread_mutex_t *lock) { pthread_mutex_lock(lock); }
void kv_unlock(pthread_mutex_t *lock) { pthread_mutex_unlock(lock); }
pthread_mutex_t *kv_monitor(struct connection *c) { return &c->lock; }
pthread_mutex_t *kv_sending(struct connection *c) { return &c->sending; }
struct exchange *kv_turn(struct connection *c) { return &c->turn; }

/* The first frame is done with. */
void kv_consume(struct connection *c)
{
    struct exchange *x = &c->turn;
    x->begin += x->frame;
    if (x->begin == x->end) x->begin = x->end = 0;
}

/* With the turn: take the first frame along in an exchange of its own, so that another thread may read. NULL without memory. */
struct exchange *kv_take(struct connection *c)
{
    struct exchange *x = __atomic_exchange_n(&c->spare, NULL, __ATOMIC_ACQ_REL), *turn = &c->turn;
    u64 rest = turn->end - turn->begin - turn->frame;
    if (!x && !(x = calloc(1, sizeof *x))) return NULL;
    x->begin = x->end = 0;
    if (!room_for_input(x, rest)) {
        kv_drop(x);
        return NULL;
    }
    memcpy(x->in, turn->in + turn->begin + turn->frame, rest);
    u8 *in = x->in;
    u64 room = x->in_room;
    x->in = turn->in;
    x->in_room = turn->in_room;
    x->body = turn->body;
    x->length = turn->length;
    x->code = turn->code;
    turn->in = in;
    turn->in_room = room;
    turn->begin = 0;
    turn->end = rest;
    return x;
}

/* Without the turn: answer what was taken along. */
int kv_perform(struct connection *c, struct exchange *x) { return answer_and_send(c, x, 0); }

/* What was taken along is answered: its room is kept for the next one. */
void kv_put_back(struct connection *c, struct exchange *x) { kv_drop(__atomic_exchange_n(&c->spare, x, __ATOMIC_ACQ_REL)); }

/* The reply that was held back may leave. */
int kv_send(struct connection *c, const struct exchange *x) { return send_all(c, x->out, x->out_length); }

/* With the turn: answer requests until there is something for Python.
 *
 * What may be slow is answered while another thread reads. If one waits for the turn it gets it, and ours is taken again
 * afterwards; if none does Python is asked to make one (SLOW, with the request as the first frame); if there are as many
 * as there may be, nobody reads meanwhile.
 * Where `*taken` comes back, the outcome is about that exchange and the turn is another's; else about the first frame. */
int kv_next(struct connection *c, struct exchange **taken)
{
    *taken = NULL;
    for (;;) {
        int outcome = receive(c);
        if (outcome == ANSWERED) outcome = answer_and_send(c, &c->turn, 1);
        if (outcome == SLOW) {
            int queued = kv_queued(c);
            if (!queued && c->growing) return SLOW;
            struct exchange *x = kv_take(c);
            if (!x) return NO_MEMORY;
            if (queued) turn_over(c);
            outcome = answer_and_send(c, x, 0);
            if (outcome != ANSWERED) {
                *taken = x;
                if (!queued) turn_over(c);
                return outcome;
            }
            kv_put_back(c, x);
            if (queued && !kv_take_turn(c)) return ENDED;
            continue;
        }
        if (outcome != ANSWERED) return outcome;
        kv_consume(c);
    }
}

/* The answer to one body, without a socket, in the exchange of the turn: for tests and measurements. */
int kv_answer(struct connection *c, const u8 *body, u64 length)
{
    c->turn.body = body;
    c->turn.length = length;
    c->turn.code = 1;
    return answer(c, &c->turn, 0);
}

/* With the lock held: `t` has room for one more memo, and knows none for the same bytes. */
void kv_remember(struct ticket *t, struct memo *m, u64 prefix)
{
    u64 at = place_of(m->request, m->length, prefix);
    while (t->memos[at & t->mask]) at++;
    t->memos[at & t->mask] = m;
}
