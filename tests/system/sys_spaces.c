/*
 * See sys_spaces.h. Addresses are set by ioctl, so that tunnels need no program.
 */
#include "tests/system/sys_spaces.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static const char device[] = "lossy"; /* in each of the two */

static bool why_not(struct sys_spaces *spaces, const char *what)
{
	snprintf(spaces->why_not, sizeof(spaces->why_not), "%s: %s", what, strerror(errno));
	return false;
}

static int this_space(void)
{
	return open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
}

/* ---- devices ---------------------------------------------------------------------------------------------- */

static bool set_address(int fd, struct ifreq *request, unsigned long what, const char *text)
{
	struct sockaddr_in address = { .sin_family = AF_INET };

	inet_pton(AF_INET, text, &address.sin_addr);
	memcpy(&request->ifr_addr, &address, sizeof(address));
	return ioctl(fd, what, request) == 0;
}

static bool set_up(int fd, struct ifreq *request)
{
	if (ioctl(fd, SIOCGIFFLAGS, request))
		return false;
	request->ifr_flags = (short)(request->ifr_flags | IFF_UP);
	return ioctl(fd, SIOCSIFFLAGS, request) == 0;
}

/* Gives a device of this namespace its address; NULL: it has one. */
static bool configure(const char *name, const char *address)
{
	const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = { .ifr_name = "" };
	bool good = fd >= 0;

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (address) {
		good = good && set_address(fd, &request, SIOCSIFADDR, address) && set_address(fd, &request, SIOCSIFNETMASK, "255.255.255.0");
		request.ifr_mtu = SYS_SPACES_MTU;
		good = good && ioctl(fd, SIOCSIFMTU, &request) == 0;
	}
	good = good && set_up(fd, &request);
	if (fd >= 0)
		close(fd);
	return good;
}

static int tunnel_open(void)
{
	struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	const int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", device);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request) == 0)
		return fd;
	close(fd);
	return -1;
}

/* ---- namespaces ------------------------------------------------------------------------------------------- */

static bool write_file(const char *path, const char *text)
{
	const int fd = open(path, O_WRONLY | O_CLOEXEC);
	const bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return good;
}

/* Who is not root becomes root of a namespace of users, in which he may make others. The process stays in there. */
static bool become_root(struct sys_spaces *spaces)
{
	const unsigned user = geteuid(), group = getegid();
	char users[32], groups[32];

	if (user == 0)
		return true;
	snprintf(users, sizeof(users), "0 %u 1", user);
	snprintf(groups, sizeof(groups), "0 %u 1", group);
	if (unshare(CLONE_NEWUSER))
		return why_not(spaces, "no namespace of users");
	if (!write_file("/proc/self/setgroups", "deny") || !write_file("/proc/self/uid_map", users) ||
		!write_file("/proc/self/gid_map", groups))
		return why_not(spaces, "no root in a namespace of users");
	return true;
}

static bool space_make(struct sys_spaces *spaces, int *fd)
{
	if (unshare(CLONE_NEWNET))
		return why_not(spaces, "no namespace of the network");
	*fd = this_space();
	return *fd >= 0 && configure("lo", NULL) ? true : why_not(spaces, "no namespace of the network with a loopback device");
}

static bool both_make(struct sys_spaces *spaces)
{
	*spaces = (struct sys_spaces){ .here_fd = -1, .there_fd = -1, .tunnels = { -1, -1 }, .home_fd = this_space() };
	if (!become_root(spaces))
		return false;
	return space_make(spaces, &spaces->there_fd) && space_make(spaces, &spaces->here_fd);
}

static bool give_up(struct sys_spaces *spaces)
{
	sys_spaces_end(spaces);
	return false;
}

bool sys_spaces_step_over(const struct sys_spaces *spaces)
{
	return setns(spaces->there_fd, CLONE_NEWNET) == 0;
}

static bool step_back(const struct sys_spaces *spaces)
{
	return setns(spaces->here_fd, CLONE_NEWNET) == 0;
}

void sys_spaces_end(struct sys_spaces *spaces)
{
	/* Who had to become root has no way back; one of his own will do. */
	const bool is_back = spaces->home_fd >= 0 && setns(spaces->home_fd, CLONE_NEWNET) == 0;

	(void)is_back;
	for (int i = 0; i < 2; i++)
		if (spaces->tunnels[i] >= 0)
			close(spaces->tunnels[i]);
	if (spaces->here_fd >= 0)
		close(spaces->here_fd);
	if (spaces->there_fd >= 0)
		close(spaces->there_fd);
	if (spaces->home_fd >= 0)
		close(spaces->home_fd);
}

/* ---- tunnels ---------------------------------------------------------------------------------------------- */

static bool tunnel_make(struct sys_spaces *spaces, int which, const char *address)
{
	spaces->tunnels[which] = tunnel_open();
	if (spaces->tunnels[which] < 0)
		return why_not(spaces, "no tunnel");
	return configure(device, address) ? true : why_not(spaces, "no address for a tunnel");
}

bool sys_spaces_tunnels(struct sys_spaces *spaces)
{
	if (!both_make(spaces) || !tunnel_make(spaces, 0, SYS_SPACES_HERE))
		return give_up(spaces);
	if (!sys_spaces_step_over(spaces) || !tunnel_make(spaces, 1, SYS_SPACES_THERE) || !step_back(spaces))
		return give_up(spaces);
	return true;
}

/* ---- netem ------------------------------------------------------------------------------------------------ */

static bool command(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Whether it went well; what it says is not of interest. */
static bool command(const char *format, ...)
{
	char line[400];
	va_list arguments;
	int bytes;

	va_start(arguments, format);
	bytes = vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	snprintf(line + bytes, sizeof(line) - (size_t)bytes, " >/dev/null 2>&1");
	return system(line) == 0;
}

/* A process in the other namespace, which stands for it: `ip` takes a process, too. */
static pid_t stand_in(const struct sys_spaces *spaces)
{
	const pid_t process = fork();

	if (process == 0) {
		if (setns(spaces->there_fd, CLONE_NEWNET))
			_exit(1);
		pause();
		_exit(0);
	}
	return process;
}

static bool ethernet_make(struct sys_spaces *spaces)
{
	const pid_t process = stand_in(spaces);
	bool good = process > 0 && command("ip link add %s type veth peer name %s netns %d", device, device, (int)process);

	/* It may not be over there yet. */
	for (int i = 0; i < 100 && !good && process > 0; i++) {
		usleep(10000);
		(void)command("ip link del %s", device);
		good = command("ip link add %s type veth peer name %s netns %d", device, device, (int)process);
	}
	if (process > 0) {
		kill(process, SIGKILL);
		waitpid(process, NULL, 0);
	}
	return good;
}

static bool netem_try(struct sys_spaces *spaces)
{
	errno = ENOTSUP;
	if (!command("ip -V") || !command("tc -V"))
		return why_not(spaces, "no ip or tc (package iproute2)");
	if (!command("tc qdisc add dev lo root netem loss 1%%") || !command("tc qdisc del dev lo root"))
		return why_not(spaces, "no netem in this kernel (sch_netem)");
	return true;
}

bool sys_spaces_netem(struct sys_spaces *spaces)
{
	if (!both_make(spaces) || !netem_try(spaces))
		return give_up(spaces);
	errno = EIO;
	if (!ethernet_make(spaces) || !configure(device, SYS_SPACES_HERE) || !sys_spaces_step_over(spaces) ||
		!configure(device, SYS_SPACES_THERE) || !step_back(spaces)) {
		(void)why_not(spaces, "no pair of Ethernet devices");
		return give_up(spaces);
	}
	return true;
}

void sys_spaces_netem_set(const struct sys_spaces *spaces, const char *faults)
{
	assert_true(command("tc qdisc replace dev %s root netem limit 10000 %s", device, faults));
	assert_true(sys_spaces_step_over(spaces));
	assert_true(command("tc qdisc replace dev %s root netem limit 10000 %s", device, faults));
	assert_true(step_back(spaces));
}
