/* Drives hot_loop.c under a sanitizer: boards, tickets and memos as Python would lay them out, a module that does what
 * a module may do, requests that are right or nearly so. Everything follows from the seed, but for the order of threads.
 *
 *     harness bodies|streams|threads ROWS CORPUS SEED ROUNDS
 *
 * ROWS is the table of tables.py. CORPUS has requests of the session 1, each behind three numbers: its length, and where
 * its IV begins and how long it is. What was seen is printed as a count per outcome; anything wrong aborts.
 */
#include "harness_world.h"

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

struct stream { int fd; u8 *bytes; u64 length, seed, replies; int good; /* all frames are */ };

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
    int good = 1;
    for (u64 i = 0; i < *frames; i++) {
        u64 body, options = draw(4) ? draw(8) : draw(65), announced, code = 1 + draw(1 << 30);
        u8 *content = nearly(&body);
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
        announced = body;
        if (rarely() && rarely()) { /* the stream ends there */
            good = 0;
            switch (draw(3)) {
            case 0: options = 65 + draw(9); break;
            case 1: announced = (1 + draw(3)) * (1ull << 30); break;
            default: code = 0;
            }
        }
        while (length + HEAD + options + body > room_) require((bytes = realloc(bytes, room_ *= 2)));
        put32(put32(put32(bytes + length, code), options), announced);
        memset(bytes + length + HEAD, 'o', options);
        memcpy(bytes + length + HEAD + options, content, body);
        length += HEAD + options + body;
        free(content);
    }
    if (rarely()) length -= 1 + draw(HEAD - 1), good = 0;
    return (struct stream){-1, bytes, length, 1 + draw(1u << 31), 0, good};
}

static void settle(struct world *w, int outcome, struct exchange *x)
{
    if (outcome == COLD) {
        look_at((u64)x->body, x->length);
        __atomic_fetch_add(&w->cold, 1, __ATOMIC_RELAXED);
    }
    if (outcome != CHANGED) return;
    confirm(w, x->body);
    require(kv_send(w->connection, x) == 0);
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
        case COLD: case NOTIFY: case CHANGED: settle(w, outcome, turn); break;
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
        shutdown(ends[0], SHUT_RDWR);
        pthread_join(running[2], NULL);
        require(s.good ? s.replies + w->cold == frames : s.replies + w->cold <= frames); /* none is lost, none is answered twice */
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
