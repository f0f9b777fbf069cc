/* What harness.c has instead of Python and of a real module: inputs, boards, tickets and memos as board.py and memos.py lay
 * them out, and functions that do what a module may do. They check what must hold whenever a module is called. */
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
    u64 cold;            /* atomic: requests that Python answers */
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
