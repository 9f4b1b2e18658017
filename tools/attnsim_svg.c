/*
 * Curves of a sweep: goodput, misses of what was admitted, and p99 of the time to the first token,
 * over load, a curve for each policy. Plain SVG, made to be read on white paper and on a screen.
 *
 * Colours are those of Okabe and Ito (2008), which people tell apart whatever they see; each policy
 * has a mark and a dash of its own as well.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "tools/attnsim_report.h"
#include "tools/tool_text.h"

enum { WIDTH = 1180, HEIGHT = 470, TOP = 108, PLOT_WIDTH = 290, PLOT_HEIGHT = 270, FIRST = 70, PITCH = 385, TICKS_MAX = 12 };
enum { LOADS_MAX = 64 };

struct look {
	const char *colour, *dash, *text;
};

static const struct look looks[ATTNSIM_POLICIES] = {
	[ATTNSIM_OURS] = { "#0072B2", "", "ours: admission, deadlines" },
	[ATTNSIM_FIFO] = { "#D55E00", "7 4", "fifo: continuous batching" },
	[ATTNSIM_EDF] = { "#009E73", "2 4", "edf: no admission" },
	[ATTNSIM_BUDGET] = { "#AA4499", "10 3 2 3", "budget: chunked prefill" },
};

struct panel {
	const char *title, *unit;
	double (*value)(const struct attnsim_point *);
	bool logarithmic, percent;
	double low, high; /* of the axis */
	double left;
};

static double goodput(const struct attnsim_point *point)
{
	return point->result.goodput_rps;
}

static double misses(const struct attnsim_point *point)
{
	const struct attnsim_group *all = &point->result.all;

	return all->admitted ? 100.0 * (double)all->missed / (double)all->admitted : 0.0;
}

static double ttft(const struct attnsim_point *point)
{
	return (double)point->result.all.ttft_p99_ns * 1e-9;
}

/* ---- axes ------------------------------------------------------------------------------------- */

/* 1, 2 or 5 times a power of ten, so that about five steps fill the range. */
static double nice_step(double range)
{
	double power = pow(10.0, floor(log10(range / 5.0))), part = range / 5.0 / power;

	return power * (part <= 1.0 ? 1.0 : part <= 2.0 ? 2.0 : part <= 5.0 ? 5.0 : 10.0);
}

static void fit(struct panel *panel, const struct attnsim_point *points, size_t count)
{
	double low = INFINITY, high = 0.0;

	for (size_t i = 0; i < count; i++) {
		double value = panel->value(&points[i]);

		high = value > high ? value : high;
		low = value > 0.0 && value < low ? value : low;
	}
	if (!(high > 0.0))
		high = 1.0;
	if (panel->logarithmic) {
		panel->low = pow(10.0, floor(log10(isfinite(low) ? low : high)));
		panel->high = pow(10.0, ceil(log10(high)));
		if (panel->high <= panel->low)
			panel->high = panel->low * 10.0;
		return;
	}
	panel->low = 0.0;
	panel->high = panel->percent ? 100.0 : ceil(high / nice_step(high)) * nice_step(high);
}

static double y_of(const struct panel *panel, double value)
{
	double share = (value - panel->low) / (panel->high - panel->low);

	if (panel->logarithmic)
		share = value <= panel->low
			? 0.0
			: log(value / panel->low) / log(panel->high / panel->low);
	return TOP + PLOT_HEIGHT * (1.0 - share);
}

static double x_of(const struct panel *panel, double load, double most)
{
	return panel->left + PLOT_WIDTH * load / most;
}

static void y_tick(FILE *file, const struct panel *panel, double value)
{
	double y = y_of(panel, value);
	char text[32];

	if (!panel->logarithmic)
		snprintf(text, sizeof(text), "%g%s", value, panel->percent ? " %" : "");
	else if (value < 0.9995)
		snprintf(text, sizeof(text), "%g ms", value * 1e3);
	else
		snprintf(text, sizeof(text), "%g s", value);
	fprintf(file, "<line class=\"grid\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", panel->left, y,
		panel->left + PLOT_WIDTH, y);
	fprintf(file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", panel->left - 8, y + 4, text);
}

static void axes(FILE *file, const struct panel *panel, const double *loads, size_t count)
{
	double most = loads[count - 1], bottom = TOP + PLOT_HEIGHT;
	int ticks = 0;

	fprintf(file, "<text class=\"title\" x=\"%.1f\" y=\"%d\">%s</text>\n", panel->left, TOP - 30, panel->title);
	fprintf(file, "<text class=\"dim\" x=\"%.1f\" y=\"%d\">%s</text>\n", panel->left, TOP - 13, panel->unit);
	if (panel->logarithmic) {
		for (double value = panel->low; value <= panel->high * 1.001 && ticks++ < TICKS_MAX; value *= 10.0)
			y_tick(file, panel, value);
	} else {
		double step = panel->percent ? 20.0 : nice_step(panel->high);

		for (double value = 0.0; value <= panel->high * 1.001 && ticks++ < TICKS_MAX; value += step)
			y_tick(file, panel, value);
	}
	for (size_t i = 0; i < count; i++) {
		double x = x_of(panel, loads[i], most);
		/* Those too close to the one before would lie on each other. */
		bool crowded = i > 0 && (loads[i] - loads[i - 1]) / most * PLOT_WIDTH < 34.0;

		fprintf(file, "<line class=\"axis\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", x, bottom, x, bottom + 5);
		fprintf(file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g</text>\n", x,
			bottom + (crowded ? 33 : 20), loads[i]);
	}
	fprintf(file, "<line class=\"axis\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", panel->left, bottom,
		panel->left + PLOT_WIDTH, bottom);
	fprintf(file, "<line class=\"full\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%.1f\"/>\n", x_of(panel, 1.0, most), TOP,
		x_of(panel, 1.0, most), bottom);
	fprintf(file, "<text class=\"dim\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">load (1 = capacity)</text>\n",
		panel->left + PLOT_WIDTH / 2.0, bottom + 56);
}

/* ---- curves ----------------------------------------------------------------------------------- */

static void mark(FILE *file, unsigned policy, double x, double y)
{
	const char *colour = looks[policy].colour;

	switch (policy) {
	case ATTNSIM_OURS:
		fprintf(file, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\"/>\n", x, y, colour);
		return;
	case ATTNSIM_FIFO:
		fprintf(file, "<rect x=\"%.1f\" y=\"%.1f\" width=\"8\" height=\"8\" fill=\"%s\"/>\n", x - 4, y - 4, colour);
		return;
	case ATTNSIM_EDF:
		fprintf(file, "<path d=\"M%.1f %.1fl5 9h-10z\" fill=\"%s\"/>\n", x, y - 6, colour);
		return;
	default:
		fprintf(file, "<path d=\"M%.1f %.1fl5 5l-5 5l-5 -5z\" fill=\"white\" stroke=\"%s\" stroke-width=\"2\"/>\n", x,
			y - 5, colour);
		return;
	}
}

static void curve(FILE *file, const struct panel *panel, const struct attnsim_point *points, size_t count, unsigned policy,
	double most)
{
	char begin = 'M';

	fprintf(file, "<path class=\"curve\" stroke=\"%s\" stroke-dasharray=\"%s\" d=\"", looks[policy].colour,
		looks[policy].dash);
	for (size_t i = 0; i < count; i++) {
		if (points[i].setup.policy != (enum attnsim_policy)policy)
			continue;
		fprintf(file, "%c%.1f %.1f", begin, x_of(panel, points[i].setup.load, most),
			y_of(panel, panel->value(&points[i])));
		begin = 'L';
	}
	fputs("\"/>\n", file);
	for (size_t i = 0; i < count; i++)
		if (points[i].setup.policy == (enum attnsim_policy)policy)
			mark(file, policy, x_of(panel, points[i].setup.load, most), y_of(panel, panel->value(&points[i])));
}

static size_t loads_of(const struct attnsim_point *points, size_t count, double loads[LOADS_MAX])
{
	size_t found = 0;

	for (size_t i = 0; i < count && found < LOADS_MAX; i++)
		if (found == 0 || points[i].setup.load > loads[found - 1])
			loads[found++] = points[i].setup.load;
	return found;
}

static void legend(FILE *file, const struct attnsim_point *points, size_t count)
{
	double x = FIRST;

	for (unsigned policy = 0; policy < ATTNSIM_POLICIES; policy++) {
		bool there = false;

		for (size_t i = 0; i < count; i++)
			there = there || points[i].setup.policy == (enum attnsim_policy)policy;
		if (!there)
			continue;
		fprintf(file, "<path class=\"curve\" stroke=\"%s\" stroke-dasharray=\"%s\" d=\"M%.1f 50h36\"/>\n",
			looks[policy].colour, looks[policy].dash, x);
		mark(file, policy, x + 18, 50);
		fprintf(file, "<text x=\"%.1f\" y=\"54\">%s</text>\n", x + 44, looks[policy].text);
		x += 62 + 6.6 * (double)strlen(looks[policy].text);
	}
}

/* Text of ours and of a file's name: what XML would take for more than letters is left out. */
static void plain(FILE *file, const char *text)
{
	for (; *text; text++)
		fputc(strchr("<>&\"'", *text) || (unsigned char)*text < ' ' ? '_' : *text, file);
}

static void draw(FILE *file, const struct attnsim_point *points, size_t count, const char *trace_name)
{
	struct panel panels[] = {
		{ .title = "Goodput", .unit = "requests a second, answered in time", .value = goodput },
		{ .title = "Missed deadlines", .unit = "of what was admitted", .value = misses, .percent = true },
		{ .title = "Time to the first token, p99", .unit = "of what was admitted; logarithmic", .value = ttft,
			.logarithmic = true },
	};
	const struct attnsim_setup *setup = &points[0].setup;
	double loads[LOADS_MAX];
	size_t load_count = loads_of(points, count, loads);

	fprintf(file, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\">\n", WIDTH,
		HEIGHT, WIDTH, HEIGHT);
	fputs("<style>text{font:12px system-ui,'DejaVu Sans',sans-serif;fill:#222}.title{font-weight:bold;font-size:14px}"
	      ".dim{fill:#666}.grid{stroke:#e4e4e4}.axis{stroke:#444}.full{stroke:#999;stroke-dasharray:2 3}"
	      ".curve{fill:none;stroke-width:2}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
		file);
	fprintf(file, "<text class=\"title\" x=\"%d\" y=\"28\">", FIRST);
	plain(file, trace_name);
	fprintf(file, ": %zu requests, %s on %s; capacity %.3g requests/s</text>\n", setup->trace->count, setup->model->what,
		setup->machine.what, setup->capacity_rps);
	legend(file, points, count);
	for (size_t p = 0; p < sizeof(panels) / sizeof(panels[0]); p++) {
		panels[p].left = FIRST + (double)p * PITCH;
		fit(&panels[p], points, count);
		axes(file, &panels[p], loads, load_count);
		for (unsigned policy = ATTNSIM_POLICIES; policy-- > 0;)
			curve(file, &panels[p], points, count, policy, loads[load_count - 1]);
	}
	fputs("</svg>\n", file);
}

int attnsim_report_svg(const char *path, const struct attnsim_point *points, size_t count, const char *trace_name)
{
	FILE *file = fopen(path, "w");

	if (!file) {
		tool_say("%s cannot be written: %s", path, strerror(errno));
		return TOOL_FAILED;
	}
	draw(file, points, count, trace_name);
	if (fflush(file) != 0 || ferror(file) || fclose(file) != 0) {
		tool_say("%s cannot be written: %s", path, strerror(errno));
		return TOOL_FAILED;
	}
	return TOOL_OK;
}
