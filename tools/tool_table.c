/*
 * Tables on a terminal. See tool_table.h.
 */
#include "tools/tool_table.h"

#include <langinfo.h>
#include <libsmartcols.h>
#include <locale.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tool_text.h"

struct tool_table {
	struct libscols_table *table;
	struct libscols_line *line;
	size_t cell;
};

static void *checked(void *memory)
{
	if (!memory)
		tool_die(TOOL_FAILED, "out of memory");
	return memory;
}

/* libsmartcols measures text in the locale's encoding; ours is always UTF-8. */
static void use_utf8(void)
{
	static bool done;

	if (done)
		return;
	done = true;
	setlocale(LC_CTYPE, "");
	if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
		setlocale(LC_CTYPE, "C.UTF-8");
}

struct tool_table *tool_table_new(const char *headings)
{
	struct tool_table *table = checked(calloc(1, sizeof(*table)));

	use_utf8();
	table->table = checked(scols_new_table());
	scols_table_enable_noencoding(table->table, 1);
	scols_table_enable_minout(table->table, 1);
	scols_table_set_column_separator(table->table, "  ");
	for (;;) {
		char name[64];
		size_t length = strcspn(headings, "|");
		bool right = *headings == '>';

		snprintf(name, sizeof(name), "%.*s", (int)(length - right), headings + right);
		struct libscols_column *column = checked(
			scols_table_new_column(table->table, name, 0, right ? SCOLS_FL_RIGHT : 0));

		scols_cell_set_color(scols_column_get_header(column), "bold");
		if (headings[length] == '\0')
			break;
		headings += length + 1;
	}
	return table;
}

void tool_table_row(struct tool_table *table)
{
	table->line = checked(scols_table_new_line(table->table, NULL));
	table->cell = 0;
}

void tool_table_cell(struct tool_table *table, const char *format, ...)
{
	char text[256];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (scols_line_set_data(table->line, table->cell++, text) < 0)
		tool_die(TOOL_FAILED, "out of memory");
}

void tool_table_colour(struct tool_table *table, const char *colour)
{
	scols_line_set_color(table->line, colour);
}

void tool_table_print(struct tool_table *table, FILE *stream)
{
	char *text = NULL;

	scols_table_enable_colors(table->table, tool_wants_colour(stream));
	/* Wide tables are not cut: a pipe has no width, and a terminal wraps. */
	scols_table_set_termforce(table->table, SCOLS_TERMFORCE_ALWAYS);
	scols_table_set_termwidth(table->table, 1000);
	if (scols_print_table_to_string(table->table, &text) || !text)
		tool_die(TOOL_FAILED, "out of memory");
	for (char *line = text; *line;) {
		size_t length = strcspn(line, "\n");
		size_t shown = length;

		while (shown > 0 && line[shown - 1] == ' ')
			shown--;
		fprintf(stream, "%s%.*s\n", shown ? "  " : "", (int)shown, line);
		line += length + (line[length] == '\n');
	}
	free(text);
	scols_unref_table(table->table);
	free(table);
}

void tool_table_title(FILE *stream, const char *format, ...)
{
	bool colour = tool_wants_colour(stream);
	va_list arguments;

	va_start(arguments, format);
	fputs(colour ? "\033[1m" : "", stream);
	vfprintf(stream, format, arguments);
	fputs(colour ? "\033[0m\n" : "\n", stream);
	va_end(arguments);
}
