/* Drives hot_loop.c under a sanitizer: boards, tickets and memos as Python would lay them out, a module that does what
 * a module may do, requests that are right or nearly so. Everything follows from the seed, but for the order of threads.
 *
 *     harness bodies|streams|threads ROWS CORPUS SEED ROUNDS
 *
 * ROWS is the table of tables.py. CORPUS has requests of the session 1, each behind three numbers: its length, and where
 * its IV begins and how long it is. What was seen is printed as a count per outcome; anything wrong aborts.
 */
#include "hot_loop.c"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#define require(what) do { if (!(what)) { fprintf(stderr, "line %d: not so: %s\n", __LINE__, #what); abort(); } } while (0)

enum { TICKETS = 3, MOST_ENTRIES = 256, OUTCOMES = NO_MEMORY + 1, REALS = 1000, ATTRIBUTE_VALUES = 24, SESSION_INFO = 13, DIGEST_INIT = 37 };

static _Thread_local u64 seed;

static u64 draw(u64 below) /* xorshift64* */
{
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return (seed * 0x2545f4914f6cdd1du >> 33) % below;
}

static int rarely(void) { return draw(16) == 0; }

static void *room(u64 length) /* to the byte, so that one too many is seen */
{
    void *p = calloc(1, length ? length : 1);
    require(p);
    return p;
}

/* --- what is given */

struct entry { u64 length, hole, hole_length; u8 *bytes; };

static struct entry corpus[MOST_ENTRIES];
static u64 entries;
static struct row rows[ROWS];

static void read_inputs(const char *table, const char *requests)
{
    FILE *f = fopen(table, "rb");
    require(f && fread(rows, sizeof rows, 1, f) == 1);
    fclose(f);
    f = fopen(requests, "rb");
    require(f);
    u32 head[3];
    while (fread(head, sizeof head, 1, f) == 1) {
        require(entries < MOST_ENTRIES);
        struct entry *e = &corpus[entries++];
        *e = (struct entry){head[0], head[1], head[2], room(head[0])};
        require(fread(e->bytes, e->length, 1, f) == 1);
    }
    fclose(f);
}

/* --- the world of one connection */

struct world {
    struct connection *connection;
    struct board board;
    struct ticket *order[TICKETS]; /* what the board shows */
    struct ticket tickets[TICKETS];
    u64 word[TICKETS], functions[ROWS];
    int closed[TICKETS]; /* atomic: the session has ended */
    u64 calls;           /* atomic: of the module */
    int alone;           /* nobody takes anything away but the module itself, so that more can be checked */
    u64 serving;         /* threads that answer */
};

static struct world worlds[2];

static struct world *world_of(u64 real) { return &worlds[(real - REALS) / TICKETS]; }

/* --- the module. The session's number there tells the world and the ticket. */

static u64 sum; /* what is read must have been there */

static void look_at(u64 address, u64 length)
{
    u64 s = 0;
    for (u64 i = 0; i < length; i++) s += ((const u8 *)address)[i];
    __atomic_fetch_add(&sum, s, __ATOMIC_RELAXED);
}

static void write_to(u64 address, u64 length) { memset((void *)address, (int)draw(256), length); }

static void change_meanwhile(struct world *w, struct ticket *t)
{
    if (w->serving == 1) require(kv_try_lock(&w->connection->lock)); /* nobody holds it while the module works */
    else kv_lock(&w->connection->lock);
    if (rarely()) w->board.waiting = draw(2);
    if (rarely()) w->board.changes++;
    kv_unlock(&w->connection->lock);
    if (rarely()) __atomic_store_n(&w->word[t - w->tickets], draw(1 << 20), __ATOMIC_SEQ_CST);
}

/* What holds at each call: the session is there and is the call's, and nothing was taken away before. */
static u64 called(u64 real)
{
    struct world *w = world_of(real);
    struct ticket *t = &w->tickets[(real - REALS) % TICKETS];
    __atomic_fetch_add(&w->calls, 1, __ATOMIC_RELAXED);
    require(!__atomic_load_n(&w->closed[t - w->tickets], __ATOMIC_SEQ_CST));
    if (w->alone) {
        require(t->inside == 1 && t->real == real && *t->word == t->granted);
        change_meanwhile(w, t);
    } else if (rarely()) sched_yield();
    require(!__atomic_load_n(&w->closed[t - w->tickets], __ATOMIC_SEQ_CST));
    static const u64 failures[] = {5, 0x91, CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID, CKR_BUFFER_TOO_SMALL};
    return draw(4) ? CKR_OK : failures[draw(5)];
}

static u64 leave(u64 rv, u64 out, u64 *left)
{
    u64 room = *left, made = draw(3) ? draw(room + 1) : room + draw(40);
    if (out) write_to(out, made < room ? made : room);
    *left = made; /* now and then more than there is room for, whatever the CK_RV */
    return rv;
}

static u64 m_in_out(u64 s, u64 in, u64 length, u64 out, u64 left) { look_at(in, length); return leave(called(s), out, (u64 *)left); }
static u64 m_out(u64 s, u64 out, u64 left) { return leave(called(s), out, (u64 *)left); }
static u64 m_in(u64 s, u64 in, u64 length) { look_at(in, length); return called(s); }
static u64 m_in_in(u64 s, u64 in, u64 length, u64 more, u64 more_length) { look_at(in, length); look_at(more, more_length); return called(s); }
static u64 m_random(u64 s, u64 out, u64 length) { require(length); write_to(out, length); return called(s); }
static u64 m_begin(u64 s, u64 mechanism, u64 key) { require(key); look_at(mechanism, 24); look_at(((u64 *)mechanism)[1], ((u64 *)mechanism)[2]); return called(s); }
static u64 m_begin_digest(u64 s, u64 mechanism) { look_at(mechanism, 24); return called(s); }

static u64 m_attributes(u64 s, u64 object, u64 array, u64 count)
{
    require(object);
    for (u64 i = 0; i < count; i++) {
        struct attribute *a = (struct attribute *)array + i;
        u64 made = draw(3) ? draw(a->length + 1) : draw(2) ? 8 : a->length + draw(3);
        if (a->value && made <= a->length) write_to((u64)a->value, made);
        a->length = draw(6) ? made : UINT64_MAX;
    }
    return called(s);
}

static u64 function_of(u64 id)
{
    switch (rows[id].shape) {
    case IN_OUT: return (u64)m_in_out;
    case OUT: return (u64)m_out;
    case IN: return (u64)m_in;
    case IN_IN: return (u64)m_in_in;
    case RANDOM: return (u64)m_random;
    case MEMO: return id == ATTRIBUTE_VALUES ? (u64)m_attributes : id == DIGEST_INIT ? (u64)m_begin_digest : (u64)m_begin;
    default: return 0;
    }
}

/* --- memos, as memos.py makes them */

static void free_memo(struct memo *m)
{
    for (u64 i = 0; i < m->count; i++) free(m->asked[i].value);
    if (m->mechanism) free((void *)((u64 *)m->mechanism)[1]);
    free((void *)m->mechanism);
    free((void *)m->request);
    free((void *)m->reply);
    free((void *)m->asked);
    free(m->array);
    free((void *)m->classes);
    free(m);
}

static struct memo *make_memo(const struct entry *e, u64 session, u64 changes)
{
    u64 id = get32(e->bytes), prefix = rows[id].prefix_length;
    u8 *request = room(e->length);
    memcpy(request, e->bytes, e->length);
    put64(request + prefix, session);
    struct memo *m = room(sizeof *m);
    m->changes = changes;
    m->length = e->length;
    m->request = request;
    m->heavy = AS_BEFORE;
    if (id == SESSION_INFO) {
        m->kind = REPLY;
        m->reply_length = 4 + draw(60);
        m->reply = room(m->reply_length);
        return m;
    }
    if (id != ATTRIBUTE_VALUES) {
        m->kind = BEGIN;
        u64 *mechanism = room(24);
        mechanism[2] = e->hole_length;
        mechanism[1] = (u64)room(e->hole_length);
        m->mechanism = (u64)mechanism;
        m->hole = e->hole;
        m->hole_length = e->hole_length;
        m->hole_to = (u8 *)mechanism[1];
        m->arity = id == DIGEST_INIT ? 2 : 3;
        m->key = 7;
        m->heavy = draw(3);
        return m;
    }
    m->kind = ATTRIBUTES;
    m->hole = 0;
    m->key = 9;
    const u8 *p = e->bytes + prefix + 16;
    m->count = get32(p);
    struct attribute *asked = room(m->count * sizeof *asked);
    u8 *classes = room(m->count);
    u64 most = 16;
    for (u64 i = 0; i < m->count; i++) {
        asked[i].type = get32(p + 4 + 8 * i);
        asked[i].length = get32(p + 8 + 8 * i) % 5000;
        asked[i].value = asked[i].length ? room(asked[i].length) : NULL;
        classes[i] = (u8)(i % 3);
        most += 17 + asked[i].length;
    }
    m->asked = asked;
    m->classes = classes;
    m->array = room(m->count * sizeof *asked);
    m->reply_length = most;
    return m;
}

static void forget(struct ticket *t)
{
    for (u64 i = 0; t->memos && i <= t->mask; i++) if (t->memos[i]) free_memo(t->memos[i]);
    free(t->memos);
    t->memos = NULL;
    t->mask = 0;
}

/* With the lock held, and nobody inside. */
static void learn(struct world *w, struct ticket *t)
{
    forget(t);
    u64 places = 16;
    while (places < 2 * entries) places *= 2;
    t->memos = room(places * sizeof *t->memos);
    t->mask = places - 1;
    for (u64 i = 0; i < entries; i++) {
        u64 id = get32(corpus[i].bytes);
        if (rows[id].shape == MEMO) kv_remember(t, make_memo(&corpus[i], t->handle, w->board.changes), rows[id].prefix_length);
    }
}

static void let_through(struct world *w, struct ticket *t)
{
    t->granted = 1 + draw(1 << 20);
    __atomic_store_n(&w->word[t - w->tickets], t->granted, __ATOMIC_SEQ_CST);
    t->allowed[0] = t->allowed[1] = UINT64_MAX;
    if (rarely()) t->allowed[draw(2)] &= ~(1ull << draw(64));
}

/* With the lock held, and nobody inside `t`: what Python does in the course of a connection. */
static void change(struct world *w, struct ticket *t)
{
    int closed = __atomic_load_n(&w->closed[t - w->tickets], __ATOMIC_SEQ_CST);
    switch (closed ? 0 : draw(9)) {
    case 0: /* the session is there, and open in the module */
        t->real = REALS + (u64)(w - worlds) * TICKETS + (u64)(t - w->tickets);
        __atomic_store_n(&w->closed[t - w->tickets], 0, __ATOMIC_SEQ_CST);
        let_through(w, t);
        learn(w, t);
        break;
    case 1:
        __atomic_store_n(&w->closed[t - w->tickets], 1, __ATOMIC_SEQ_CST);
        t->real = t->granted = t->began = t->heavy = 0;
        forget(t);
        break;
    case 2: __atomic_store_n(&w->word[t - w->tickets], draw(1 << 20), __ATOMIC_SEQ_CST); break;
    case 3: let_through(w, t); break;
    case 4: w->board.changes++; break;
    case 5: learn(w, t); break;
    case 6: w->board.waiting = draw(2); break;
    case 7: t->heavy = draw(2); break;
    default: /* the board shows other sessions than before, somewhere else */
        w->board.count = 0;
        struct ticket **order = w->order;
        for (u64 i = 0; i < TICKETS; i++) if (!rarely() || w->tickets[i].inside) order[w->board.count++] = &w->tickets[i];
    }
}

static void build(struct world *w, int alone)
{
    w->alone = alone;
    w->serving = 1;
    w->board = (struct board){.tickets = w->order, .count = TICKETS, .most_output = 512, .most_options = 64,
                              .most_body = 1 << 19, .slow_body = draw(2) ? 1024 : 1 << 18, .frame_ns = 5000000000};
    for (u64 id = 0; id < ROWS; id++) w->functions[id] = function_of(id);
    w->connection = kv_open(rows, &w->board);
    require(w->connection);
    for (u64 i = 0; i < TICKETS; i++) {
        struct ticket *t = w->order[i] = &w->tickets[i];
        *t = (struct ticket){.handle = 1 + 2 * i, .word = &w->word[i], .functions = w->functions};
        w->closed[i] = 1;
        change(w, t);
    }
}

static void raze(struct world *w)
{
    for (u64 i = 0; i < TICKETS; i++) forget(&w->tickets[i]);
    kv_close(w->connection);
}

/* --- requests that are right, or nearly */

static u8 *nearly(u64 *length)
{
    const struct entry *e = &corpus[draw(entries)];
    static const u32 numbers[] = {0, 1, 8, 16, 64, 513, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};
    u64 wrong = draw(4) ? draw(8) : 8;
    u64 long_ = wrong == 1 ? draw(e->length) : wrong == 2 ? e->length + 1 + draw(30) : e->length;
    u8 *bytes = room(long_);
    memcpy(bytes, e->bytes, long_ < e->length ? long_ : e->length);
    u64 id = get32(e->bytes), prefix = rows[id].prefix_length;
    if (long_ >= prefix + 8) put64(bytes + prefix, draw(8) ? 1 + 2 * draw(TICKETS) : draw(8));
    if (wrong == 3 || wrong == 4) for (u64 i = 0; i < 1 + draw(4); i++) bytes[draw(long_)] ^= (u8)(1 << draw(8));
    if (wrong == 5 && long_ > prefix + 12) put32(bytes + prefix + 8 + draw(long_ - prefix - 11), numbers[draw(10)]);
    if (e->hole_length && draw(2)) for (u64 i = 0; i < e->hole_length && e->hole + i < long_; i++) bytes[e->hole + i] = (u8)draw(256);
    *length = long_;
    return bytes;
}

static u64 seen[OUTCOMES];

static void saw(int outcome)
{
    require(outcome >= 0 && outcome < OUTCOMES);
    __atomic_fetch_add(&seen[outcome], 1, __ATOMIC_RELAXED);
}

static struct ticket *ticket_of(struct world *w, const u8 *body) { return find(&w->board, get64(body + rows[get32(body)].prefix_length)); }

static void check_frame(const u8 *frame, u64 length, u64 out_room)
{
    require(length >= HEAD + 4 && length <= out_room);
    require(get32(frame) && get32(frame + 4) == 0 && get32(frame + 8) == length - HEAD);
    look_at((u64)frame, length);
}

/* Python's Connection.confirm_left. */
static void confirm(struct world *w, const u8 *body)
{
    kv_lock(&w->connection->lock);
    struct ticket *t = ticket_of(w, body);
    require(t && t->inside == 1);
    if (w->alone) require(*t->word != t->granted);
    t->inside = 0;
    kv_unlock(&w->connection->lock);
}

/* What Python does for a request that it answers: the session is let through again, what it says is remembered. */
static void decide(struct world *w, struct ticket *t)
{
    if (!draw(3)) return;
    kv_lock(&w->connection->lock);
    if (!t->inside && t->real) {
        let_through(w, t);
        if (!draw(3)) learn(w, t);
    }
    kv_unlock(&w->connection->lock);
}

static void answer_one(struct world *w)
{
    u64 length, calls = w->calls;
    u8 *body = nearly(&length);
    int outcome = kv_answer(w->connection, body, length);
    struct exchange *x = kv_turn(w->connection);
    saw(outcome);
    switch (outcome) {
    case ANSWERED: case NOTIFY:
        check_frame(x->out, x->out_length, x->out_room);
        require(get32(x->out + HEAD) == get32(body) || get32(x->out + HEAD) == 0 || rows[get32(body)].shape == MEMO);
        if (w->alone) require(!ticket_of(w, body)->inside && *ticket_of(w, body)->word == ticket_of(w, body)->granted);
        break;
    case CHANGED:
        check_frame(x->out, x->out_length, x->out_room);
        confirm(w, body);
        break;
    default:
        require(outcome == COLD);
        if (w->alone) require(w->calls == calls);
        decide(w, &w->tickets[draw(TICKETS)]);
    }
    free(body);
}

static void bodies(u64 rounds)
{
    struct world *w = &worlds[0];
    build(w, 1);
    while (rounds--) {
        struct ticket *t = &w->tickets[draw(TICKETS)];
        if (rarely()) change(w, t);
        t->inside = rarely(); /* a call of Python's */
        answer_one(w);
        t->inside = 0;
    }
    raze(w);
}

/* --- whole streams through a socket */

struct stream { int fd; u8 *bytes; u64 length; u64 seed; u64 replies; };

static u64 whole(u8 *bytes, u64 *have) /* take whole frames from the front */
{
    u64 frames = 0, at = 0;
    while (*have - at >= HEAD && *have - at >= HEAD + get32(bytes + at + 8)) {
        check_frame(bytes + at, HEAD + get32(bytes + at + 8), UINT64_MAX);
        at += HEAD + get32(bytes + at + 8);
        frames++;
    }
    memmove(bytes, bytes + at, *have - at);
    *have -= at;
    return frames;
}

static void *application(void *given)
{
    struct stream *s = given;
    seed = s->seed;
    u64 sent = 0, have = 0, room_ = 1 << 20;
    u8 *got = room(room_);
    for (int open = 1; open;) {
        struct pollfd p = {s->fd, (short)(POLLIN | (sent < s->length ? POLLOUT : 0)), 0};
        require(poll(&p, 1, 60000) > 0);
        if (rarely() && rarely()) poll(NULL, 0, 2); /* nothing comes for longer than the loop waits */
        if (p.revents & POLLOUT) {
            u64 piece = draw(2) ? 1 + draw(40) : 1 + draw(1 << 16), rest = s->length - sent;
            ssize_t n = send(s->fd, s->bytes + sent, piece < rest ? piece : rest, MSG_NOSIGNAL);
            if (n < 0 && errno != EAGAIN) sent = s->length; /* the connection was closed on us */
            else if (n > 0) sent += (u64)n;
            if (sent == s->length) shutdown(s->fd, SHUT_WR);
        }
        if (p.revents & (POLLIN | POLLHUP | POLLERR)) {
            ssize_t n = recv(s->fd, got + have, room_ - have, 0);
            if (n == 0 || (n < 0 && errno != EAGAIN)) open = 0;
            else if (n > 0) have += (u64)n, s->replies += whole(got, &have);
        }
    }
    require(!have); /* no half a reply */
    free(got);
    return NULL;
}

static struct stream make_stream(u64 *frames)
{
    u64 room_ = 1 << 16, length = 0;
    u8 *bytes = room(room_);
    *frames = 1 + draw(40);
    for (u64 i = 0; i < *frames; i++) {
        u64 body, options = draw(4) ? draw(8) : draw(65), announced;
        u8 *content = nearly(&body);
        if (rarely() && rarely()) options = 65 + draw(9); /* too many: the stream ends there */
        if (rarely()) { /* long data, which another thread would answer */
            u64 data = draw(1 << 18);
            free(content);
            content = room(body = 11 + 8 + 5 + data);
            put32(content, 39); /* C_DigestUpdate */
            memcpy(content, rows[39].prefix, rows[39].prefix_length);
            put64(content + rows[39].prefix_length, 1);
            content[rows[39].prefix_length + 8] = 1;
            put32(content + rows[39].prefix_length + 9, (body = rows[39].prefix_length + 13 + data) - rows[39].prefix_length - 13);
        }
        announced = rarely() && rarely() ? draw(3) * (1ull << 31) : body;
        while (length + HEAD + options + body > room_) require((bytes = realloc(bytes, room_ *= 2)));
        put32(put32(put32(bytes + length, rarely() && rarely() ? 0 : 1 + draw(1 << 30)), options), announced);
        memset(bytes + length + HEAD, 'o', options);
        memcpy(bytes + length + HEAD + options, content, body);
        length += HEAD + options + body;
        free(content);
    }
    if (rarely()) length -= draw(HEAD);
    return (struct stream){-1, bytes, length, 1 + draw(1u << 31), 0};
}

static void settle(struct world *w, int outcome, struct exchange *x)
{
    if (outcome != CHANGED) return;
    confirm(w, x->body);
    int failed = kv_send(w->connection, x);
    require(failed == 0 || failed == -EPIPE); /* the other thread may have ended the connection */
}

static void touch(struct world *w) /* what Python may do between two requests */
{
    struct ticket *t = &w->tickets[draw(TICKETS)];
    kv_lock(&w->connection->lock);
    if (!t->inside && rarely()) change(w, t);
    kv_unlock(&w->connection->lock);
    decide(w, t);
}

/* With the turn: serve.Service._answer_until_slow. 0 where the connection has ended. */
static int read_and_answer(struct world *w)
{
    struct connection *c = w->connection;
    for (;;) {
        struct exchange *x, *turn = kv_turn(c);
        int outcome = kv_next(c, &x);
        if (outcome >= 0) saw(outcome);
        if (x && outcome >= 0) {
            require(outcome != SLOW && outcome != ANSWERED);
            if (outcome == COLD) look_at((u64)x->body, x->length);
            settle(w, outcome, x);
        }
        if (x) return kv_put_back(c, x), outcome >= 0;
        switch (outcome) {
        case SLOW:
            require((x = kv_take(c)));
            kv_hand_on(c);
            outcome = kv_perform(c, x);
            require(outcome != SLOW);
            if (outcome >= 0) saw(outcome), settle(w, outcome, x);
            kv_put_back(c, x);
            return outcome >= 0;
        case COLD: look_at((u64)turn->body, turn->length); break;
        case NOTIFY: case CHANGED: settle(w, outcome, turn); break;
        default: return 0;
        }
        kv_consume(c);
        touch(w);
        if (rarely()) return kv_hand_on(c), 1; /* a call of Python's that may be slow */
    }
}

struct thread { struct world *world; u64 rounds, seed; };

static void *serve(void *given)
{
    struct thread *r = given;
    struct connection *c = r->world->connection;
    seed = r->seed;
    while (kv_take_turn(c) && read_and_answer(r->world)) {}
    kv_end_turns(c);
    shutdown(c->fd, SHUT_RDWR);
    return NULL;
}

static void streams(u64 rounds)
{
    u64 replies = 0, asked = 0;
    while (rounds--) {
        struct world *w = &worlds[0];
        memset(w, 0, sizeof *w);
        build(w, 1);
        u64 frames;
        struct stream s = make_stream(&frames);
        int ends[2];
        require(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
        require(fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
        struct timeval soon = {0, 1000};
        require(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon) == 0);
        s.fd = ends[1];
        kv_attach(w->connection, ends[0]);
        kv_set_growing(w->connection, (int)draw(2));
        pthread_t running[3];
        struct thread servers[2];
        u64 count = w->serving = 1 + draw(2);
        require(pthread_create(&running[2], NULL, application, &s) == 0);
        for (u64 i = 0; i < count; i++) {
            servers[i] = (struct thread){w, 0, 1 + draw(1u << 31)};
            require(pthread_create(&running[i], NULL, serve, &servers[i]) == 0);
        }
        for (u64 i = 0; i < count; i++) pthread_join(running[i], NULL);
        pthread_join(running[2], NULL);
        require(s.replies <= frames);
        replies += s.replies;
        asked += frames;
        close(ends[0]);
        close(ends[1]);
        free(s.bytes);
        raze(w);
    }
    printf("frames %llu replies %llu\n", (unsigned long long)asked, (unsigned long long)replies);
}

/* --- Python beside it */

static void *read_on(void *given)
{
    struct thread *r = given;
    seed = r->seed;
    while (r->rounds--) answer_one(r->world);
    return NULL;
}

static void threads(u64 rounds)
{
    pthread_t running[2];
    struct thread readers[2];
    int stop = 0;
    for (int i = 0; i < 2; i++) {
        build(&worlds[i], 0);
        readers[i] = (struct thread){&worlds[i], rounds, seed + 77 + (u64)i};
        require(pthread_create(&running[i], NULL, read_on, &readers[i]) == 0);
    }
    for (u64 n = 0; !stop; n++) {
        struct world *w = &worlds[draw(2)];
        struct ticket *t = &w->tickets[draw(TICKETS)];
        if (draw(2)) __atomic_store_n(&w->word[t - w->tickets], draw(1 << 20), __ATOMIC_SEQ_CST); /* the daemon asks nobody */
        if (!kv_try_lock(&w->connection->lock)) kv_lock(&w->connection->lock);
        if (!t->inside) {
            change(w, t);
            change(w, t);
            if (draw(3) && t->real) let_through(w, t);
        }
        kv_unlock(&w->connection->lock);
        stop = n >= rounds;
    }
    for (int i = 0; i < 2; i++) {
        require(pthread_join(running[i], NULL) == 0);
        raze(&worlds[i]);
    }
}

int main(int count, char **words)
{
    require(count == 6);
    read_inputs(words[2], words[3]);
    seed = strtoull(words[4], NULL, 10) * 2 + 1;
    u64 rounds = strtoull(words[5], NULL, 10);
    switch (words[1][0]) {
    case 'b': bodies(rounds); break;
    case 's': streams(rounds); break;
    default: threads(rounds);
    }
    static const char *const names[OUTCOMES] = {"ANSWERED", "COLD", "SLOW", "CHANGED", "NOTIFY", "ENDED", "BAD_HEAD", "TOO_SLOW", "NO_MEMORY"};
    for (int i = 0; i < OUTCOMES; i++) printf("%s %llu\n", names[i], (unsigned long long)seen[i]);
    for (u64 i = 0; i < entries; i++) free(corpus[i].bytes);
    return 0;
}
