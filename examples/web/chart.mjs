// A small line chart on a logarithmic scale: one line a task, and the run before it, faint. Colours come from the style
// sheet, so that it follows the page into the dark.

const style = (element, name) => getComputedStyle(element).getPropertyValue(name).trim();

// Means over bins, so that a line has no more points than there are pixels. A bin that is not full is left out: it would
// jump.
function thinned(values, most) {
  const width = Math.ceil(values.length / most) || 1, points = [];
  for (let i = 0; i + width <= values.length; i += width) {
    const bin = values.slice(i, i + width);
    points.push([i + (bin.length - 1) / 2, bin.reduce((a, b) => a + b, 0) / bin.length]);
  }
  return points;
}

const power = n => n >= 0 && n < 4 ? String(10 ** n) : n < 0 && n > -4 ? (10 ** n).toFixed(-n) : `1e${n}`;

// lines: [{color: "--task-0", values: [..], faint}]
export function drawChart(canvas, lines) {
  const { clientWidth: width, clientHeight: height } = canvas, scale = devicePixelRatio || 1;
  canvas.width = width * scale, canvas.height = height * scale;
  const c = canvas.getContext("2d"), left = 46, bottom = 20, top = 6, right = 8;
  c.scale(scale, scale);
  c.font = "12px system-ui, sans-serif";
  const all = lines.flatMap(l => l.values).filter(v => v > 0 && Number.isFinite(v));
  const steps = Math.max(10, ...lines.map(l => l.values.length));
  let low = Math.floor(Math.log10(all.reduce((a, b) => Math.min(a, b), Infinity))), high = Math.ceil(Math.log10(all.reduce((a, b) => Math.max(a, b), 0)));
  if (!all.length) [low, high] = [-2, 2];
  if (high <= low) high = low + 1;
  const x = i => left + (width - left - right) * i / (steps - 1);
  const y = v => height - bottom - (height - bottom - top) * (Math.log10(v) - low) / (high - low);

  c.strokeStyle = style(canvas, "--grid"), c.fillStyle = style(canvas, "--quiet");
  c.textAlign = "right", c.textBaseline = "middle";
  const every = Math.ceil((high - low) / 5);
  for (let n = low; n <= high; n += every) {
    const at = Math.round(y(10 ** n)) + 0.5;
    c.beginPath(), c.moveTo(left, at), c.lineTo(width - right, at), c.stroke();
    c.fillText(power(n), left - 6, at);
  }
  c.textBaseline = "alphabetic";
  c.fillText(`${steps} steps`, width - right, height - 5);
  c.textAlign = "left", c.fillText("0", left, height - 5);

  for (const { color, values, faint } of lines) {
    c.strokeStyle = style(canvas, color), c.globalAlpha = faint ? 0.6 : 1, c.lineWidth = faint ? 1.5 : 2;
    c.setLineDash(faint ? [4, 3] : []), c.lineJoin = "round";
    c.beginPath();
    for (const [i, v] of thinned(values, (width - left - right) / 2)) if (v > 0) c.lineTo(x(i), y(v));
    c.stroke();
  }
}

// An 8 x 8 picture with values 0..16.
export function drawDigit(canvas, values) {
  const c = canvas.getContext("2d"), image = c.createImageData(8, 8);
  canvas.width = canvas.height = 8;
  values.forEach((v, i) => image.data.set([...Array(3).fill(Math.max(0, Math.min(255, v * 16))), 255], 4 * i));
  c.putImageData(image, 0, 0);
}
