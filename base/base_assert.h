/*
 * Assertions: for what comes from us, never for what comes from a client, a packet, a file or a device.
 * They stay on in release builds, because a daemon that has lost its invariants must not go on serving.
 */
#ifndef BASE_ASSERT_H
#define BASE_ASSERT_H

_Noreturn void base_assert_failed(const char *expression, const char *file, int line)
	__attribute__((cold));

#define BASE_ASSERT(expression)                                                    \
	((expression) ? (void)0 : base_assert_failed(#expression, __FILE__, __LINE__))

#endif
