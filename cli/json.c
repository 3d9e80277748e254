/* cli/json.c: a JSON writer. */
#include "cli/cli.h"

#include <math.h>

static void quoted(FILE *to, const char *text)
{
    fputc('"', to);
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == '"' || *p == '\\')
            fprintf(to, "\\%c", *p);
        else if (*p < 0x20)
            fprintf(to, "\\u%04x", *p);
        else
            fputc(*p, to);
    }
    fputc('"', to);
}

static void lead(cli_json *json, const char *key)
{
    if (json->comma[json->depth])
        fputc(',', json->to);
    json->comma[json->depth] = true;
    if (key) {
        quoted(json->to, key);
        fputc(':', json->to);
    }
}

void json_open(cli_json *json, const char *key, char bracket)
{
    lead(json, key);
    fputc(bracket, json->to);
    json->comma[++json->depth] = false;
}

void json_close(cli_json *json, char bracket)
{
    json->depth--;
    fputc(bracket, json->to);
}

void json_text(cli_json *json, const char *key, const char *value)
{
    lead(json, key);
    quoted(json->to, value);
}

void json_number(cli_json *json, const char *key, double value)
{
    lead(json, key);
    if (isfinite(value))
        fprintf(json->to, "%.9g", value);
    else
        fputs("null", json->to);
}

void json_int(cli_json *json, const char *key, int64_t value)
{
    lead(json, key);
    fprintf(json->to, "%lld", (long long)value);
}

void json_bool(cli_json *json, const char *key, bool value)
{
    lead(json, key);
    fputs(value ? "true" : "false", json->to);
}
