/*
 * Preloaded into an agent: writes down all that libtoxcore hands to the program, decrypted, before the program has it.
 * Each record is appended to the file $TOX_CAPTURE by one write: kind (1 octet), the instance (8), the friend's number
 * (4), the length (4), all in the machine's order, then the octets. capture.py reads it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <tox/tox.h>

enum { REQUEST, MESSAGE, PACKET };

#define NOBODY UINT32_MAX

static tox_friend_request_cb *request;
static tox_friend_message_cb *message;
static tox_friend_lossless_packet_cb *packet;

static void note(uint8_t kind, Tox *tox, uint32_t friend, const uint8_t *key, const uint8_t *data, size_t length)
{
    static int file = -1;
    uint64_t instance = (uintptr_t)tox;
    uint32_t size = (key ? TOX_PUBLIC_KEY_SIZE : 0) + length;
    uint8_t head[17] = { kind };
    struct iovec parts[3] = {
        { head, sizeof head },
        { (void *)key, key ? TOX_PUBLIC_KEY_SIZE : 0 },
        { (void *)data, length },
    };

    memcpy(head + 1, &instance, 8);
    memcpy(head + 9, &friend, 4);
    memcpy(head + 13, &size, 4);
    if (file < 0) {
        const char *path = getenv("TOX_CAPTURE");
        file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    }
    /* A capture with a hole would prove nothing. */
    if (file < 0 || writev(file, parts, 3) != (ssize_t)(sizeof head + size))
        abort();
}

static void on_request(Tox *tox, const uint8_t *key, const uint8_t *data, size_t length, void *user)
{
    note(REQUEST, tox, NOBODY, key, data, length);
    request(tox, key, data, length, user);
}

static void on_message(Tox *tox, uint32_t friend, TOX_MESSAGE_TYPE type, const uint8_t *data, size_t length, void *user)
{
    note(MESSAGE, tox, friend, NULL, data, length);
    message(tox, friend, type, data, length, user);
}

static void on_packet(Tox *tox, uint32_t friend, const uint8_t *data, size_t length, void *user)
{
    note(PACKET, tox, friend, NULL, data, length);
    packet(tox, friend, data, length, user);
}

/* The program has one function of each kind for all of its instances. */
#define REPLACE(event, function, saved)                                              \
    void tox_callback_##event(Tox *tox, tox_##event##_cb *callback)                  \
    {                                                                                \
        void (*real)(Tox *, tox_##event##_cb *) = dlsym(RTLD_NEXT, __func__);        \
        if (!real || (saved && saved != callback))                                   \
            abort();                                                                 \
        saved = callback;                                                            \
        real(tox, function);                                                         \
    }

REPLACE(friend_request, on_request, request)
REPLACE(friend_message, on_message, message)
REPLACE(friend_lossless_packet, on_packet, packet)
