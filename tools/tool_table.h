/*
 * Tables on a terminal, by libsmartcols: columns as wide as they need, headings in bold where
 * colour is welcome.
 *
 * Main thread; cold. Out of memory ends the program.
 */
#ifndef TOOL_TABLE_H
#define TOOL_TABLE_H

#include <stdio.h>

struct tool_table;

enum { TOOL_TABLE_COLUMNS = 16 };

/* headings: "name", or ">name" for a column of numbers, aligned to the right; separated by '|'. */
struct tool_table *tool_table_new(const char *headings);
/* Starts a row; cells then fill it from the left. */
void tool_table_row(struct tool_table *table);
void tool_table_cell(struct tool_table *table, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* Colours the current row: "red", "yellow", "green", "dim" ... */
void tool_table_colour(struct tool_table *table, const char *colour);
/* Prints with two blanks before each line, and frees. */
void tool_table_print(struct tool_table *table, FILE *stream);

/* A heading above a table, bold where colour is welcome. */
void tool_table_title(FILE *stream, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
