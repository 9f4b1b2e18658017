/*
 * Time limit: 120 s
 *
 * What the daemon does, read from its memory by strangers: a client sees its own requests and nobody else's, an operator sees all of
 * it, and neither can write there. When the daemon is killed both still read its last values, and notice.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "attnd/attnd.h"
#include "attnd/view.h"
#include "base/base_view.h"
#include "shm-ipc/shm_attach.h"
#include "shm-ipc/shm_view.h"
#include "tests/system/sys_daemon.h"

enum { PROMPT = 70, TOKENS = 12, NOBODY = 65534 };

static const char *const options[] = { "kv.pool=64M", "limits.tokens=512", "placement.workers=0", "placement.spin_us=50",
	"daemon.log_level=warn", "shm.timelines=32", NULL };

static struct attnd_client *attach(const struct sys_daemon *daemon)
{
	const struct attnd_options how = { .struct_bytes = sizeof(how), .address = daemon->address, .arena_bytes = 1 << 20 };
	struct attnd_client *client;

	if (attnd_connect(&client, &how))
		fail_msg("%s", attnd_error());
	return client;
}

static void pause_ms(int ms)
{
	const struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

	nanosleep(&time, NULL);
}

static struct attnd_completion step(struct attnd_client *client, uint64_t session, uint64_t id, int64_t deadline_ns)
{
	uint32_t *tokens = attnd_loan(client, PROMPT * sizeof(*tokens)), *out = attnd_loan(client, 64);
	const struct attnd_step_args args = { .output = ATTND_OUT_ARGMAX };
	struct attnd_request request = { .op = ATTND_OP_STEP,
		.priority_class = ATTND_CLASS_INTERACTIVE,
		.request_id = id,
		.session = session,
		.deadline_ns = deadline_ns,
		.argument = PROMPT,
		.in_offset = attnd_offset(client, tokens),
		.in_bytes = PROMPT * sizeof(*tokens),
		.out_offset = attnd_offset(client, out),
		.out_capacity = 64 };
	struct attnd_completion completion;

	for (uint32_t i = 0; i < PROMPT; i++)
		tokens[i] = 3 + i % 200;
	memcpy(&request.args, &args, sizeof(args));
	assert_int_equal(attnd_submit(client, &request, 1), 1);
	assert_int_equal(attnd_wait(client, &completion, 1, 20000000000), 1);
	attnd_return(client, tokens);
	attnd_return(client, out);
	return completion;
}

static void same(const struct attnd_timeline *timeline, const struct attnd_completion *completion)
{
	assert_true(timeline->request_id == completion->request_id);
	assert_int_equal(timeline->status, completion->status);
	assert_true(timeline->received_ns == completion->received_ns && timeline->admitted_ns == completion->admitted_ns);
	assert_true(timeline->started_ns == completion->started_ns && timeline->done_ns == completion->done_ns);
}

static uint64_t ended_of(const struct attnd_view_device *device, unsigned op)
{
	uint64_t sum = 0;

	for (unsigned s = 0; s < ATTND_VIEW_STATUSES; s++)
		sum += device->counts.ended[op][s];
	return sum;
}

/* The memory is written by another process: what was answered is there a moment later at the latest. */
static struct attnd_view_device read_quiet(const struct attnd_view *view)
{
	struct attnd_view_device device;

	for (int i = 0; i < 500; i++) {
		assert_int_equal(attnd_view_read_device(view, 0, &device), 0);
		if (device.now.begun_ns == 0 && device.now.running[1] + device.now.waiting[1] == 0 &&
			device.counts.predictions == device.now.steps + device.now.attends)
			break;
		pause_ms(2);
	}
	return device;
}

/* ---- seeing ------------------------------------------------------------------------------------ */

static void a_client_sees_its_own(struct attnd_client *client, struct attnd_client *other, int64_t now_ns)
{
	struct attnd_timeline timelines[8], timeline;
	struct attnd_completion completion, refused;
	struct attnd_open_params open;
	struct attnd_view_own own;
	uint64_t session;

	attnd_open_defaults(&open);
	assert_int_equal(attnd_session_open(client, &open, &session), 0);
	completion = step(client, session, 1000, now_ns + 20000000000);
	assert_int_equal(completion.status, ATTND_OK);
	refused = step(client, session, 1001, attnd_now_ns(client) + 1);
	assert_int_equal(refused.status, ATTND_REFUSED_DEADLINE);

	assert_int_equal(attnd_view_timeline(client, 1000, &timeline), 0);
	same(&timeline, &completion);
	assert_int_equal(timeline.op, ATTND_OP_STEP);
	assert_int_equal(timeline.priority_class, ATTND_CLASS_INTERACTIVE);
	assert_true(timeline.session == session);
	assert_int_equal(timeline.rows, PROMPT);
	assert_true(timeline.steps >= 1 && timeline.step_ns[0] > timeline.started_ns && timeline.step_took_ns[0] > 0);
	assert_true(timeline.predicted_ns > timeline.received_ns && timeline.predicted_ns <= timeline.deadline_ns);
	assert_int_equal(attnd_view_timeline(client, 1001, &timeline), 0);
	same(&timeline, &refused);
	assert_true(timeline.predicted_ns == (int64_t)refused.value);

	assert_int_equal(attnd_view_timelines(client, timelines, 8), 3); /* OPEN and two STEPs */
	assert_int_equal(timelines[0].op, ATTND_OP_OPEN);
	assert_true(timelines[1].request_id == 1000 && timelines[2].request_id == 1001);
	assert_int_equal(attnd_view_timelines(client, timelines, 1), 1);
	assert_true(timelines[0].request_id == 1001);
	assert_int_equal(attnd_view_read_own(client, &own), 0);
	assert_int_equal(own.records, 3);
	assert_int_equal(own.ended[ATTND_OK], 2);
	assert_int_equal(own.ended[ATTND_REFUSED_DEADLINE], 1);
	assert_int_equal(own.stale, 0);

	/* The neighbour sees nothing of it. */
	assert_int_equal(attnd_view_timelines(other, timelines, 8), 0);
	assert_int_equal(attnd_view_timeline(other, 1000, &timeline), -ENOENT);
	assert_int_equal(attnd_view_read_own(other, &own), 0);
	assert_int_equal(own.records + own.ended[ATTND_OK], 0);
}

static void an_operator_sees_all(const struct sys_daemon *daemon, const struct attnd_view *view)
{
	struct attnd_view_daemon about;
	struct attnd_view_device device = read_quiet(view);
	uint64_t busy_ns;

	assert_int_equal(attnd_view_read_daemon(view, &about), 0);
	assert_int_equal(about.pid, (uint32_t)daemon->pid);
	assert_int_equal(about.devices, 1);
	assert_int_equal(about.stale, 0);
	assert_int_equal(attnd_view_read_device(view, 1, &device), -EINVAL);
	assert_int_equal(device.counts.received[ATTND_OP_STEP], 2);
	assert_int_equal(device.counts.admitted[ATTND_OP_STEP], 1);
	assert_int_equal(ended_of(&device, ATTND_OP_STEP), 2);
	assert_int_equal(device.counts.ended[ATTND_OP_STEP][ATTND_REFUSED_DEADLINE], 1);
	assert_int_equal(device.now.sessions, 1);
	assert_int_equal(device.now.step_rows, PROMPT);
	assert_true(device.now.kv_blocks > 0 && device.now.kv_used > 0 && device.now.kv_free > 0);
	assert_true(device.now.predicted_ns > 0 && device.now.actual_ns > 0 && device.counts.band[0] >= 1000000);
	busy_ns = attnd_view_busy_ns(&device.now, about.read_ns);
	assert_true(busy_ns > 0 && busy_ns < (uint64_t)(about.read_ns - device.now.started_ns));
	/* The same as who asks is told. */
	assert_true((double)device.now.busy_ns == sys_daemon_number(daemon, "counters.busy_ns"));
	assert_true((double)device.now.steps == sys_daemon_number(daemon, "counters.steps"));
}

/* Nothing is asked: a daemon that is stopped is read all the same, and after a while known to be. */
static void a_stopped_daemon_is_read(const struct sys_daemon *daemon, const struct attnd_view *view)
{
	struct attnd_view_daemon about;
	struct attnd_view_device device;

	kill(daemon->pid, SIGSTOP);
	assert_int_equal(attnd_view_read_device(view, 0, &device), 0);
	assert_int_equal(device.counts.received[ATTND_OP_STEP], 2);
	pause_ms(2200);
	assert_int_equal(attnd_view_read_daemon(view, &about), 0);
	assert_int_equal(about.stale, 1);
	kill(daemon->pid, SIGCONT);
	for (int i = 0; i < 300 && about.stale; i++) {
		pause_ms(10);
		attnd_view_read_daemon(view, &about);
	}
	assert_int_equal(about.stale, 0);
}

static void after_its_death(const struct attnd_client *client, const struct attnd_view *view)
{
	struct attnd_timeline timelines[8];
	struct attnd_view_daemon about;
	struct attnd_view_device device;
	struct attnd_view_own own;

	assert_int_equal(attnd_view_read_own(client, &own), 0);
	assert_int_equal(own.stale, 1);
	assert_int_equal(own.records, 3);
	assert_int_equal(attnd_view_timelines(client, timelines, 8), 3);
	assert_true(timelines[1].request_id == 1000 && timelines[1].done_ns > 0);
	assert_int_equal(attnd_view_read_device(view, 0, &device), 0);
	assert_int_equal(device.counts.received[ATTND_OP_STEP], 2);
	pause_ms(2200);
	assert_int_equal(attnd_view_read_daemon(view, &about), 0);
	assert_int_equal(about.stale, 1);
	assert_true(about.alive_ns > 0 && about.read_ns - about.alive_ns > ATTND_VIEW_STALE_NS);
}

static void seen_and_outlived(void **state)
{
	struct sys_daemon daemon;
	struct attnd_client *client, *other;
	struct attnd_view *view;

	(void)state;
	sys_daemon_start(&daemon, true, options);
	client = attach(&daemon);
	other = attach(&daemon);
	if (attnd_view_open(&view, daemon.address))
		fail_msg("%s", attnd_error());
	a_client_sees_its_own(client, other, attnd_now_ns(client));
	an_operator_sees_all(&daemon, view);
	a_stopped_daemon_is_read(&daemon, view);
	sys_daemon_kill(&daemon);
	after_its_death(client, view);
	attnd_view_close(view);
	attnd_disconnect(client);
	attnd_disconnect(other);
	assert_int_equal(attnd_view_open(&view, daemon.address), -ENOENT);
	assert_null(view);
}

/* A stream is looked at by its client while it runs. */
static int look(void *context, uint32_t id, const struct attnd_completion *completion)
{
	struct attnd_timeline timeline;

	(void)id;
	if (attnd_view_timeline(context, completion->request_id, &timeline))
		return 1;
	assert_true(timeline.steps > completion->sequence && timeline.steps <= TOKENS + 2);
	assert_true(timeline.last_step_ns >= timeline.started_ns && timeline.started_ns == completion->started_ns);
	return 0;
}

static void a_stream_while_it_runs(void **state)
{
	struct sys_daemon daemon;
	struct attnd_client *client;
	struct attnd_open_params open;
	struct attnd_generate_params params;
	struct attnd_timeline timelines[2];
	uint32_t prompt[3] = { 3, 4, 5 };
	uint64_t session;

	(void)state;
	sys_daemon_start(&daemon, true, options);
	client = attach(&daemon);
	attnd_open_defaults(&open);
	attnd_generate_defaults(&params);
	params.max_tokens = TOKENS;
	params.sampling.temperature = 1;
	assert_int_equal(attnd_session_open(client, &open, &session), 0);
	int64_t tokens = attnd_generate(client, session, &params, prompt, 3, NULL, look, client, NULL);

	assert_true(tokens > 0);
	assert_int_equal(attnd_view_timelines(client, timelines, 2), 2);
	assert_int_equal(timelines[1].op, ATTND_OP_GENERATE);
	assert_int_equal(timelines[1].tokens, tokens);
	assert_int_equal(timelines[1].rows, 3 + tokens - 1);
	attnd_disconnect(client);
	sys_daemon_stop(&daemon);
}

/* ---- not writing ------------------------------------------------------------------------------- */

/* The descriptor that operators are handed. */
static int operators_fd(const struct sys_daemon *daemon)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char text[128], control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec part = { .iov_base = text, .iov_len = sizeof(text) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	int fd = -1, socket_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/attnd.ctl", daemon->folder);
	assert_int_equal(connect(socket_fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(send(socket_fd, "view\n", 5, 0), 5);
	assert_true(recvmsg(socket_fd, &message, 0) > 0);
	assert_non_null(CMSG_FIRSTHDR(&message));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	close(socket_fd);
	return fd;
}

static void who_can_read_cannot_write(void **state)
{
	struct sys_daemon daemon;
	char path[64];
	int fd, again;
	void *memory;

	(void)state;
	sys_daemon_start(&daemon, false, options);
	fd = operators_fd(&daemon);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
	memory = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(memory != MAP_FAILED);
	assert_int_equal(mprotect(memory, 4096, PROT_READ | PROT_WRITE), -1);
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
	/* Root may open the file anew for writing; the seals hold all the same. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR | O_CLOEXEC);
	if (again >= 0) {
		assert_int_equal(pwrite(again, "x", 1, 0), -1);
		assert_int_equal(ftruncate(again, 0), -1);
		assert_int_equal(fallocate(again, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
		assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0) == MAP_FAILED);
		close(again);
	}
	munmap(memory, 4096);
	close(fd);
	sys_daemon_stop(&daemon);
}

/* A client that speaks the protocol itself: its part of R is behind the same seals, and its own. */
static void a_client_cannot_write(void **state)
{
	const struct shm_hello hello = { .arena_bytes = 1 << 20, .submission_slots = 64, .completion_slots = 256 };
	struct shm_connection connection;
	struct sys_daemon daemon;
	struct shm_view_own own;

	(void)state;
	sys_daemon_start(&daemon, false, options);
	assert_int_equal(shm_connect(&connection, daemon.address + 4, &hello, 5000000000), 0);
	assert_int_equal(shm_view_own_find(&own, connection.read_memory, &connection.head), 0);
	assert_int_equal(own.timelines, 32);
	unsigned char *page = (unsigned char *)((uintptr_t)own.first & ~(uintptr_t)4095);

	assert_int_equal(mprotect(page, 4096, PROT_READ | PROT_WRITE), -1);
	shm_disconnect(&connection);
	sys_daemon_stop(&daemon);
}

/* What all do is not for every user. */
static void others_may_not_look(void **state)
{
	struct sys_daemon daemon;
	struct attnd_view *view;
	pid_t pid;
	int status;

	(void)state;
	if (geteuid() != 0)
		skip();
	sys_daemon_start(&daemon, false, options);
	chmod(daemon.folder, 0755);
	pid = fork();
	if (pid == 0) {
		if (setgid(NOBODY) || setuid(NOBODY))
			_exit(2);
		_exit(attnd_view_open(&view, daemon.address) == -EACCES ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	sys_daemon_stop(&daemon);
}

/* By configuration a daemon keeps none; who asks is told so. */
static void none_are_kept(void **state)
{
	static const char *const none[] = { "kv.pool=64M", "shm.timelines=0", "daemon.log_level=warn", "placement.workers=0", NULL };
	struct attnd_timeline timeline;
	struct attnd_client *client;
	struct attnd_view_own own;
	struct sys_daemon daemon;

	(void)state;
	sys_daemon_start(&daemon, false, none);
	client = attach(&daemon);
	assert_int_equal(attnd_nop(client), 0);
	assert_int_equal(attnd_view_timelines(client, &timeline, 1), -ENOTSUP);
	assert_int_equal(attnd_view_read_own(client, &own), -ENOTSUP);
	attnd_disconnect(client);
	sys_daemon_stop(&daemon);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(seen_and_outlived),
		cmocka_unit_test(a_stream_while_it_runs),
		cmocka_unit_test(who_can_read_cannot_write),
		cmocka_unit_test(a_client_cannot_write),
		cmocka_unit_test(others_may_not_look),
		cmocka_unit_test(none_are_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
