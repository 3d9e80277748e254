/* cli/page.c: an HTML page in one file: no font, script or picture from elsewhere. */
#include "cli/page.h"

#include "onnxio/onnxio.h"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ its looks and its script */

/* Colours c0..c7 can be told apart without red and green (after Okabe and Ito 2008), on white and
 * on black. */
static const char style[] =
    ":root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6470;--line:#e3e6ea;--page:#fff;"
    "--box:#f6f7f9;--pos:0 114 178;--neg:213 94 0;"
    "--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b5548f;--c4:#8f6b00;--c5:#3aa0dc;--c6:#e69f00;"
    "--c7:#6b6f76}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a2abb6;--line:#30363e;"
    "--page:#14171b;--box:#1c2025;--pos:86 180 233;--neg:255 138 61;"
    "--c0:#56b4e9;--c1:#ff8a3d;--c2:#2cc295;--c3:#e39bc4;--c4:#f0e442;--c5:#8ab8ff;--c6:#e69f00;"
    "--c7:#b4b9c0}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0 auto;max-width:1280px;padding:20px 16px 48px;background:var(--page);"
    "color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;"
    "-webkit-text-size-adjust:100%}\n"
    "h1{font-size:21px;line-height:1.25;margin:0 0 10px;overflow-wrap:anywhere}\n"
    "h2{font-size:16px;margin:34px 0 2px}\n"
    "h1+.verdict{margin:0}\n"
    ".verdict{background:var(--box);border-left:4px solid var(--c0);padding:10px 14px;"
    "border-radius:0 6px 6px 0;font-size:16px;max-width:78ch;overflow-wrap:anywhere}\n"
    ".note{color:var(--soft);margin:0 0 10px;max-width:88ch;font-size:14px}\n"
    ".grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(340px,100%),1fr));"
    "gap:18px 28px}\n"
    ".scroll{overflow-x:auto}\n"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}\n"
    "th,td{padding:4px 14px 4px 0;text-align:left;vertical-align:top;white-space:nowrap;"
    "border-bottom:1px solid var(--line)}\n"
    "th{color:var(--soft);font-weight:500}\n"
    "tbody th{color:var(--ink);font-weight:600}\n"
    ".scroll tbody th{position:sticky;left:0;background:var(--page)}\n"
    ".n{text-align:right}\n"
    ".w{white-space:normal;min-width:15em;overflow-wrap:anywhere}\n"
    ".m{font-size:13px}.m td,.m thead th{text-align:center;padding:5px "
    "5px;min-width:44px;border:2px solid var(--page);"
    "border-radius:6px}\n"
    ".m tbody th{border:0;font-weight:500;max-width:9.5em;overflow:hidden;text-overflow:ellipsis}\n"
    ".pos{background:rgb(var(--pos)/var(--a))}.neg{background:rgb(var(--neg)/var(--a))}\n"
    ".self{color:var(--soft)}\n"
    "figure{margin:0;min-width:0}.wide{grid-column:1/-1}\n"
    "figcaption{font-size:14px;font-weight:600;margin:0 0 2px}\n"
    "svg{display:block;width:100%;height:auto;overflow:visible;touch-action:pan-y}\n"
    "svg text{font-size:11px;fill:var(--soft);font-variant-numeric:tabular-nums}\n"
    "svg text.name{fill:var(--ink)}\n"
    ".y{text-anchor:end}.x{text-anchor:middle}\n"
    "polyline,path{fill:none;stroke-width:1.6;stroke-linejoin:round}\n"
    "svg .grid{stroke:var(--line);stroke-width:1;display:inline}svg .axis{stroke:var(--soft);"
    "stroke-width:1}\n"
    "polygon{stroke:none;opacity:.13}\n"
    ".dashed{stroke-dasharray:5 3}\n"
    ".c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}"
    ".c4{stroke:var(--c4)}.c5{stroke:var(--c5)}.c6{stroke:var(--c6)}.c7{stroke:var(--c7)}\n"
    "polygon.c0{fill:var(--c0)}polygon.c1{fill:var(--c1)}polygon.c2{fill:var(--c2)}"
    "polygon.c3{fill:var(--c3)}polygon.c4{fill:var(--c4)}polygon.c5{fill:var(--c5)}"
    "polygon.c6{fill:var(--c6)}polygon.c7{fill:var(--c7)}\n"
    "#tip{position:fixed;display:none;pointer-events:none;background:var(--ink);color:var(--page);"
    "padding:5px 9px;border-radius:6px;font-size:12.5px;line-height:1.4;white-space:pre;z-index:1;"
    "font-variant-numeric:tabular-nums}\n"
    "@media(max-width:600px){.many .w{white-space:nowrap}}\n"
    "@media print{body{max-width:none}figure{break-inside:avoid}}\n";

/* Values under the pointer. Without it the page reads as well. */
static const char script[] =
    "const tip=document.body.appendChild(document.createElement('div'));tip.id='tip';\n"
    "const show=v=>Math.abs(v)>=1e-3&&Math.abs(v)<1e6||v===0?String(+v.toPrecision(4)):"
    "v.toExponential(2);\n"
    "for(const svg of document.querySelectorAll('svg[data-x]')){\n"
    "  const [x0,x1,steps]=svg.dataset.x.split(' ').map(Number),"
    "[y0,y1,low,high]=svg.dataset.y.split(' ').map(Number);\n"
    "  const scale=svg.dataset.scale,lines=[...svg.querySelectorAll('polyline')];\n"
    "  const rule=svg.appendChild(lines[0].cloneNode());rule.setAttribute('class','axis');"
    "rule.setAttribute('points','');\n"
    "  const value=y=>{const v=low+(y0-y)/(y0-y1)*(high-low);"
    "return scale==='log'?show(10**v):scale==='percent'?(100*v).toFixed(1)+' %':show(v)};\n"
    "  svg.addEventListener('pointermove',e=>{\n"
    "    const box=svg.getBoundingClientRect(),x=(e.clientX-box.left)/box.width*"
    "svg.viewBox.baseVal.width;\n"
    "    let at=null,rows=[];\n"
    "    for(const line of lines){let near=null;for(const p of line.points)"
    "if(!near||Math.abs(p.x-x)<Math.abs(near.x-x))near=p;\n"
    "      if(near){at=near.x;rows.push(line.dataset.name+'  '+value(near.y))}}\n"
    "    if(at===null)return;\n"
    "    rule.setAttribute('points',at+','+y0+' '+at+','+y1);\n"
    "    tip.textContent='step '+Math.round((at-x0)/(x1-x0)*steps)+'\\n'+rows.join('\\n');"
    "tip.style.display='block';\n"
    "    tip.style.left=Math.max(4,Math.min(e.clientX+14,innerWidth-tip.offsetWidth-8))+'px';"
    "tip.style.top=Math.max(4,e.clientY-tip.offsetHeight-12)+'px'});\n"
    "  svg.addEventListener('pointerleave',()=>{tip.style.display='none';"
    "rule.setAttribute('points','')})}\n";

/* ------------------------------------------------------------------ text */

/* Length of the UTF-8 sequence at p; 0: it is none, or a control character. */
static size_t sequence(const unsigned char *p)
{
    size_t n = *p < 0x80 ? 1 : *p >= 0xC2 && *p < 0xE0 ? 2 : *p >= 0xE0 && *p < 0xF0 ? 3 : 4;
    if (n == 1)
        return *p >= 0x20 && *p != 0x7F;
    if (*p < 0xC2 || *p > 0xF4)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    bool overlong = (*p == 0xE0 && p[1] < 0xA0) || (*p == 0xF0 && p[1] < 0x90);
    bool surrogate = *p == 0xED && p[1] > 0x9F, beyond = *p == 0xF4 && p[1] > 0x8F;
    return overlong || surrogate || beyond ? 0 : n;
}

static const char *entity(char c)
{
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    default:
        return c == '\'' ? "&#39;" : NULL;
    }
}

void cli_page_text(FILE *to, const char *text)
{
    for (const char *p = text; *p;) {
        size_t n = sequence((const unsigned char *)p);
        const char *escaped = entity(*p);
        if (escaped)
            fputs(escaped, to);
        else if (n)
            fwrite(p, 1, n, to);
        else
            fputs("\xEF\xBF\xBD", to); /* replacement character */
        p += n ? n : 1;
    }
}

/* ------------------------------------------------------------------ the page */

mtbal_status cli_page_open(cli_page *page, const char *title, const char *verdict, mtbal_diag *diag)
{
    *page = (cli_page){0};
    page->to = open_memstream(&page->text, &page->size);
    if (!page->to)
        return mtbal_no_memory(diag);
    fprintf(page->to, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n"
                      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"/>\n"
                      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                      "style-src 'unsafe-inline'; script-src 'unsafe-inline'\"/>\n<title>");
    cli_page_text(page->to, title);
    fprintf(page->to, "</title>\n<style>%s</style></head>\n<body><h1>", style);
    cli_page_text(page->to, title);
    fprintf(page->to, "</h1>\n<p class=\"verdict\">");
    cli_page_text(page->to, verdict);
    fprintf(page->to, "</p>\n");
    return MTBAL_OK;
}

mtbal_status cli_page_close(cli_page *page, const char *path, mtbal_diag *diag)
{
    mtbal_writer writer;
    fprintf(page->to, "<script>\n%s</script>\n</body></html>\n", script);
    bool failed = ferror(page->to);
    failed = fclose(page->to) || failed;
    mtbal_status status = failed ? mtbal_no_memory(diag) : mtbal_writer_open(&writer, path, diag);
    if (status == MTBAL_OK) {
        status = mtbal_writer_put(&writer, page->text, page->size, diag);
        if (status == MTBAL_OK)
            status = mtbal_writer_commit(&writer, diag);
        else
            mtbal_writer_abort(&writer);
    }
    free(page->text);
    *page = (cli_page){0};
    return status;
}

void cli_page_heading(cli_page *page, const char *heading, const char *note)
{
    fprintf(page->to, "<h2>%s</h2>\n", heading);
    if (note)
        fprintf(page->to, "<p class=\"note\">%s</p>\n", note);
}

static void row(FILE *to, const cli_table *table, const char *const *cells, const bool *number,
                const char *first, const char *others)
{
    fprintf(to, "<tr>");
    for (int c = 0; c < table->ncolumns; c++) {
        const char *tag = c ? others : first;
        bool last = c == table->ncolumns - 1;
        fprintf(to, "<%s%s>", tag, number[c] ? " class=\"n\"" : last ? " class=\"w\"" : "");
        cli_page_text(to, cells[c]);
        fprintf(to, "</%s>", tag);
    }
    fprintf(to, "</tr>\n");
}

void cli_page_table(cli_page *page, const cli_table *table)
{
    bool number[CLI_MAX_COLUMNS];
    int rows = table->nrows / table->ncolumns;
    cli_table_numbers(table, number);
    fprintf(page->to, "<div class=\"scroll\"><table%s><thead>",
            table->ncolumns > 2 ? " class=\"many\"" : "");
    row(page->to, table, table->cells, number, "th", "th");
    fprintf(page->to, "</thead><tbody>\n");
    for (int r = 1; r < rows; r++)
        row(page->to, table, table->cells + r * table->ncolumns, number, "th", "td");
    fprintf(page->to, "</tbody></table></div>\n");
}
