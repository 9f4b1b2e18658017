/*
 * Listeners and keys in the configuration: what is taken, and every kind of mistake with its message. Key files are made here.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "service/svc_config_net.h"

static struct svc_config config;
static char folder[] = "/tmp/attnd-keys-XXXXXX";

static const char key_text[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
static const char other_text[] = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

/* ---- files ------------------------------------------------------------------------------------------------ */

static const char *path_of(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

static void write_file(const char *name, const char *text, mode_t mode)
{
	FILE *file = fopen(path_of(name), "we");

	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	fclose(file);
	assert_int_equal(chmod(path_of(name), mode), 0);
}

static int set_up(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(folder));
	write_file("good", key_text, 0600);
	write_file("same", key_text, 0640);
	write_file("other", other_text, 0400);
	write_file("read-by-others", key_text, 0604);
	write_file("run-by-others", key_text, 0601);
	write_file("written-by-group", key_text, 0620);
	write_file("short", key_text + 2, 0600);
	write_file("empty", "", 0600);
	write_file("no-hex", "this is a password and no key; it has more than 64 letters, which does not help\n", 0600);
	assert_int_equal(mkfifo(path_of("pipe"), 0600), 0);
	return 0;
}

static int tear_down(void **state)
{
	static const char *const names[] = {
		"good", "same", "other", "read-by-others", "run-by-others", "written-by-group", "short", "empty", "no-hex", "pipe", "config" };

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		unlink(path_of(names[i]));
	return rmdir(folder);
}

/* In the text, ~ is the folder of keys. */
static int from_text(const char *text)
{
	char whole[4096] = "";
	int rc;

	for (; *text; text++) {
		const char letter[2] = { *text, 0 };
		const size_t at = strlen(whole);

		snprintf(whole + at, sizeof(whole) - at, "%s", *text == '~' ? folder : letter);
	}
	write_file("config", whole, 0600);
	svc_config_defaults(&config);
	rc = svc_config_file(&config, path_of("config"));
	return rc ? rc : svc_config_check(&config);
}

static void good(const char *text)
{
	if (from_text(text))
		fail_msg("%s", base_error_message());
}

static void wrong(const char *text, const char *says)
{
	assert_int_not_equal(from_text(text), 0);
	if (!strstr(base_error_message(), says))
		fail_msg("\"%s\" does not say \"%s\"", base_error_message(), says);
}

/* ---- addresses -------------------------------------------------------------------------------------------- */

static void good_address(const char *address, enum net_port_kind kind, const char *place, uint16_t port)
{
	char text[512];

	snprintf(text, sizeof(text), "[tenant t]\nkey_file = ~/good\n[listen here]\naddress = %s\n", address);
	good(text);
	assert_int_equal(config.listen_count, 1);
	assert_string_equal(config.listens[0].name, "here");
	assert_int_equal(config.listens[0].at.kind, kind);
	assert_string_equal(config.listens[0].at.place, place);
	assert_int_equal(config.listens[0].at.port, port);
	assert_false(config.listens[0].plain || config.listens[0].trusted);
}

static void addresses(void **state)
{
	(void)state;
	good_address("tcp:127.0.0.1:1234", NET_PORT_TCP, "127.0.0.1", 1234);
	good_address("tcp:0.0.0.0", NET_PORT_TCP, "0.0.0.0", 7747);
	good_address("udp:192.168.1.20:65535", NET_PORT_UDP, "192.168.1.20", 65535);
	good_address("udp:[::1]:7", NET_PORT_UDP, "::1", 7);
	good_address("tcp:[::]", NET_PORT_TCP, "::", 7747);
	good_address("tcp:[fe80::1:2]:0", NET_PORT_TCP, "fe80::1:2", 0);
	good_address("unix:/run/attnd/net.sock", NET_PORT_UNIX, "/run/attnd/net.sock", 0);
}

static void bad_address(const char *address)
{
	char text[512];

	snprintf(text, sizeof(text), "[listen here]\naddress = %s\nplain = yes\n", address);
	wrong(text, "write tcp:ADDRESS:PORT");
}

static void bad_addresses(void **state)
{
	static const char *const bad[] = { "127.0.0.1:80", "tcp", "tcp:", "tcp:localhost:80", "tcp::80", "tcp:1.2.3:80", "tcp:1.2.3.4:",
		"tcp:1.2.3.4:x", "tcp:1.2.3.4:80x", "tcp:1.2.3.4:65536", "tcp:1.2.3.4:-1", "tcp:1.2.3.4:+80", "tcp:1.2.3.4: 80",
		"tcp:1.2.3.4:00000080", "tcp:1.2.3.4:99999999999999999999", "tcp:::1:80", "tcp:[::1", "tcp:[::1]80", "tcp:[::1]:",
		"tcp:[1.2.3.4]:80", "tcp:[]:80", "udp:[::1]x", "sctp:1.2.3.4:80", "unix:", "unix:relative/path", "unix:@abstract" };
	char path[256] = "unix:/";

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		bad_address(bad[i]);
	/* Longer than the kernel takes. */
	memset(path + 6, 'x', 107);
	bad_address(path);
	path[6 + 106] = 0;
	good_address(path, NET_PORT_UNIX, path + 5, 0);
}

/* ---- listeners -------------------------------------------------------------------------------------------- */

static void listeners(void **state)
{
	(void)state;
	good("[tenant a]\nkey_file = ~/good\n[tenant b]\nuid = 5\n[listen one]\naddress = tcp:10.0.0.1\n"
	     "[listen two]\naddress = unix:/x\nplain = yes\ntenant = b\n"
	     "[listen three]\naddress = udp:10.0.0.1\nplain=YES\ntrusted = yes\ntenant = a\n");
	assert_int_equal(config.listen_count, 3);
	assert_true(!config.listens[0].plain && config.listens[1].plain && config.listens[2].plain && config.listens[2].trusted);
	assert_int_equal(svc_config_listen_tenant(&config, &config.listens[0]), 0);
	assert_int_equal(svc_config_listen_tenant(&config, &config.listens[1]), 1);
	assert_int_equal(svc_config_listen_tenant(&config, &config.listens[2]), 0);
	/* Without tenants everybody is the first one. */
	good("[listen one]\naddress = tcp:127.0.0.1\nplain = yes\n");
	assert_int_equal(svc_config_listen_tenant(&config, &config.listens[0]), 0);
	good("");
	assert_int_equal(config.listen_count, 0);
}

static void bad_listeners(void **state)
{
	char many[2048] = "[tenant t]\nkey_file = ~/good\n";

	(void)state;
	wrong("[listen x]\nplain = yes\n", "no address");
	wrong("[listen x]\naddress = tcp:127.0.0.1\nplain = maybe\n", "yes or no");
	wrong("[listen x]\naddress = tcp:127.0.0.1\nport = 80\n", "unknown key");
	wrong("[listen x]\naddress = tcp:127.0.0.1\nplain = yes\ntenant = nobody\n", "no [tenant nobody]");
	wrong("[listen x]\naddress = tcp:127.0.0.1\n", "nobody can come in");
	wrong("[tenant a]\nuid = 4\n[tenant b]\nuid = 5\n[listen x]\naddress = tcp:127.0.0.1\nplain = yes\n", "say whose");
	assert_int_equal(svc_config_set(&config, "listen.0123456789012345678901234567890123456789012345678901234567890123.plain=no"), -EINVAL);
	assert_non_null(strstr(base_error_message(), "names shorter than 64"));
	for (int i = 0; i < NET_LISTENERS_MAX; i++)
		snprintf(many + strlen(many), sizeof(many) - strlen(many), "[listen l%d]\naddress = unix:/x%d\n", i, i);
	good(many);
	assert_int_equal(config.listen_count, NET_LISTENERS_MAX);
	strcat(many, "[listen more]\naddress = unix:/x\n");
	wrong(many, "at most 16 listeners");
}

/* Plain ones only where nobody else listens in, or where it is said that nobody does. */
static void plain_listeners(void **state)
{
	static const char *const loopback[] = { "tcp:127.0.0.1", "tcp:127.255.3.4:1", "udp:[::1]:9", "unix:/x" };
	static const char *const open[] = {
		"tcp:0.0.0.0", "tcp:[::]", "udp:128.0.0.1", "tcp:126.255.255.255", "tcp:10.0.0.1", "udp:[::2]", "tcp:[::ffff:10.0.0.1]" };
	char text[256];

	(void)state;
	for (size_t i = 0; i < sizeof(loopback) / sizeof(*loopback); i++) {
		snprintf(text, sizeof(text), "[listen x]\naddress = %s\nplain = yes\n", loopback[i]);
		good(text);
	}
	for (size_t i = 0; i < sizeof(open) / sizeof(*open); i++) {
		snprintf(text, sizeof(text), "[listen x]\naddress = %s\nplain = yes\n", open[i]);
		wrong(text, "no loopback address");
		strcat(text, "trusted = yes\n");
		good(text);
	}
}

/* ---- keys ------------------------------------------------------------------------------------------------- */

static void keys(void **state)
{
	unsigned char key[NET_KEY_BYTES];

	(void)state;
	good("[tenant a]\nkey_file = ~/good\n[tenant b]\nkey_file = ~/other\n[tenant c]\nuid = 6\n[listen x]\naddress = tcp:0.0.0.0\n");
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(svc_config_key(&config.tenants[i], key), 0);
		assert_int_equal(key[0], i ? 0xff : 0);
		for (uint32_t j = 1; j < NET_KEY_BYTES; j++)
			assert_int_equal(key[j], j);
	}
	/* The group may read it: a daemon's group. */
	good("[tenant a]\nkey_file = ~/same\n[listen x]\naddress = tcp:0.0.0.0\n");
}

static void bad_keys(void **state)
{
	(void)state;
	wrong("[tenant a]\nkey_file = ~/nowhere\n", "nowhere: No such file");
	wrong("[tenant a]\nkey_file = ~/read-by-others\n", "chmod 600");
	wrong("[tenant a]\nkey_file = ~/run-by-others\n", "chmod 600");
	wrong("[tenant a]\nkey_file = ~/written-by-group\n", "chmod 600");
	wrong("[tenant a]\nkey_file = ~/short\n", "64 hexadecimal digits");
	wrong("[tenant a]\nkey_file = ~/empty\n", "64 hexadecimal digits");
	wrong("[tenant a]\nkey_file = ~/no-hex\n", "64 hexadecimal digits");
	wrong("[tenant a]\nkey_file = ~\n", "no regular file");
	wrong("[tenant a]\nkey_file = ~/pipe\n", "no regular file");
	wrong("[tenant a]\nkey_file = ~/good\n[tenant b]\nkey_file = ~/other\n[tenant c]\nkey_file = ~/same\n",
		"[tenant c] key_file");
	wrong("[tenant a]\nkey_file = ~/good\n[tenant b]\nkey_file = ~/good\n", "another tenant has the same key");
	/* No message shows what is in the file. */
	wrong("[tenant a]\nkey_file = ~/no-hex\n", "key_file");
	assert_null(strstr(base_error_message(), "password"));
}

/* ---- [net] ------------------------------------------------------------------------------------------------ */

static void numbers(void **state)
{
	(void)state;
	good("[net]\ntransport = sockets\nconnections = 7\nhalf_open = 8\nin_flight = 9\nstreams = 16\nwindow = 8K\n"
	     "message = 4K\nmemory = 64K\nresume_ms = 0\nhello_ms = 10\nidle_s = 1\nslow_s = 1\ncookies = yes\n");
	assert_true(config.net_transport == SVC_NET_SOCKETS && config.net_connections == 7 && config.net_half_open == 8);
	assert_true(config.net_in_flight == 9 && config.net_streams == 16 && config.net_window_bytes == 8192);
	assert_true(config.net_message_bytes == 4096 && config.net_memory_bytes == 65536 && config.net_resume_ms == 0);
	assert_true(config.net_hello_ms == 10 && config.net_idle_s == 1 && config.net_slow_s == 1 && config.net_cookies);
	good("[net]\nin_flight = 512\nstreams = 512\n");
	wrong("[net]\nin_flight = 512\nstreams = 513\n", "at most 1024 together");
	wrong("[net]\nmessage = 16M\nmemory = 63M\n", "at least four times");
	good("[net]\nconnections = 65000\nhalf_open = 536\n");
	wrong("[net]\nconnections = 65000\nhalf_open = 537\n", "at most 65536 together");
	wrong("[net]\ntransport = pigeons\n", "auto io_uring sockets");
	wrong("[net]\nin_flight = 0\n", "in_flight");
	wrong("[net]\nstreams = 15\n", "streams");
	wrong("[net]\nhello_ms = 9\n", "hello_ms");
	wrong("[net]\nmessage = 257M\n", "message");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses),
		cmocka_unit_test(bad_addresses),
		cmocka_unit_test(listeners),
		cmocka_unit_test(bad_listeners),
		cmocka_unit_test(plain_listeners),
		cmocka_unit_test(keys),
		cmocka_unit_test(bad_keys),
		cmocka_unit_test(numbers),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
