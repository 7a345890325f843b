// The explorer of the page: draws the response of a head's rotation, r(dx, dy) = mean of cos(f_x dx + f_y dy).
(() => {
  "use strict";

  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("explorer-data").textContent);
  const FREE = "free";
  const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  // Blue, white, red: distinguishable with any color vision; the same in light and dark mode, to match the scale.
  const COLORS = [
    [5, 48, 97], [33, 102, 172], [67, 147, 195], [146, 197, 222], [209, 229, 240], [247, 247, 247],
    [253, 219, 199], [244, 165, 130], [214, 96, 77], [178, 24, 43], [103, 0, 31],
  ];

  const DESCRIPTIONS = {
    pi: "pi interpolates positions into the trained grid: the same map, stretched.",
    ntk: "ntk slows slow pairs and keeps fast ones.",
    parts: "parts slows pairs with few turns over the trained grid and keeps those with many.",
  };

  const state = {
    layer: 0, head: 0, allHeads: false, grid: 0, rows: 0, columns: 0, scaling: data.scaling,
    query: { x: 0, y: 0 }, reading: null, field: null, axialField: null,
  };

  // ---- the maths

  /** Return the index of a layer's frequencies for the selected grid and RoPE scaling. */
  function chosen(tables, layer) {
    return state.grid === FREE ? tables[0][0][layer] : tables[state.scaling][state.grid][layer];
  }

  /** List the pairs of a head, or of all heads (null): [f_x, f_y] of each, in radians per patch. */
  function listPairs(place, head) {
    const [xs, ys] = data.frequencies[place];
    const heads = xs.length === 1 ? [0] : head === null ? [...xs.keys()] : [head];
    return heads.flatMap((row) => xs[row].map((x, pair) => [x, ys[row][pair]]));
  }

  /** Compute the response of pairs to an offset in patches. */
  function response(pairs, dx, dy) {
    let sum = 0;
    for (const [x, y] of pairs) sum += Math.cos(x * dx + y * dy);
    return sum / pairs.length;
  }

  /** Return cosines and sines of a frequency times all offsets along an axis of `count` patches. */
  function waves(frequency, count) {
    const angles = Float64Array.from({ length: 2 * count - 1 }, (_, index) => frequency * (index - count + 1));
    return [angles.map(Math.cos), angles.map(Math.sin)];
  }

  /**
   * Compute the responses to all offsets of a grid once, so that moving the query only looks them up.
   * By cos(a + b) = cos a cos b - sin a sin b, cosines and sines are needed per row and per column only.
   */
  function makeField(pairs, rows, columns) {
    const width = 2 * columns - 1, values = new Float64Array((2 * rows - 1) * width);
    for (const [x, y] of pairs) {
      const [cosAcross, sinAcross] = waves(x, columns), [cosDown, sinDown] = waves(y, rows);
      for (let row = 0; row < cosDown.length; row++) {
        for (let column = 0; column < width; column++) {
          values[row * width + column] += cosDown[row] * cosAcross[column] - sinDown[row] * sinAcross[column];
        }
      }
    }
    return (dx, dy) => values[(dy + rows - 1) * width + dx + columns - 1] / pairs.length;
  }

  /** Tell whether a patch lies on the grid. */
  const onGrid = (x, y) => x >= 0 && y >= 0 && x < state.columns && y < state.rows;

  /** Tell whether no neighbor of a patch responds more strongly. */
  function isPeak(x, y, value) {
    for (let dy = -1; dy <= 1; dy++) {
      for (let dx = -1; dx <= 1; dx++) {
        const there = onGrid(x + dx, y + dy) ? state.field(x + dx - state.query.x, y + dy - state.query.y) : -2;
        if (there > value + 1e-6) return false;
      }
    }
    return true;
  }

  /** Find the highest peak besides the query, the nearest of equal ones; null if there is none. */
  function findRival() {
    let best = null;
    for (let y = 0; y < state.rows; y++) {
      for (let x = 0; x < state.columns; x++) {
        const dx = x - state.query.x, dy = y - state.query.y, far = dx * dx + dy * dy;
        const value = state.field(dx, dy);
        if (far === 0 || (best && value < best.value - 1e-6) || !isPeak(x, y, value)) continue;
        if (!best || value > best.value + 1e-6 || far < best.far) best = { x, y, value, far };
      }
    }
    return best;
  }

  /** Tell whether training saw an offset. */
  const isSeen = (dx, dy) => Math.abs(dy) < data.grids[0][0] && Math.abs(dx) < data.grids[0][1];

  // ---- the maps

  /** Give the color of a response from -1 to 1. */
  function color(value) {
    const place = ((Math.min(1, Math.max(-1, value)) + 1) / 2) * (COLORS.length - 1);
    const low = Math.min(Math.floor(place), COLORS.length - 2);
    const mixed = COLORS[low].map((c, i) => Math.round(c + (COLORS[low + 1][i] - c) * (place - low)));
    return `rgb(${mixed.join(",")})`;
  }

  /** Give a canvas whole screen pixels for each patch, as large as its figure allows; returns pixels a patch. */
  function fit(canvas) {
    const ratio = window.devicePixelRatio || 1;
    const room = canvas.parentElement.clientWidth * ratio;
    const cell = Math.max(1, Math.floor(room / Math.max(state.rows, state.columns)));
    canvas.width = cell * state.columns;
    canvas.height = cell * state.rows;
    canvas.style.width = `${canvas.width / ratio}px`;
    canvas.style.height = `${canvas.height / ratio}px`;
    return cell;
  }

  /** Draw what `path` traces in black on white, so that it is seen on every color. */
  function outline(context, path, dash = []) {
    const ratio = window.devicePixelRatio || 1;
    context.beginPath();
    path();
    for (const [ink, width, dashes] of [["#fff", 4, []], ["#000", 2, dash]]) {
      context.strokeStyle = ink;
      context.lineWidth = width * ratio;
      context.setLineDash(dashes.map((length) => length * ratio));
      context.stroke();
    }
  }

  /** Draw a map: a square for each patch, then the marks. */
  function drawMap(canvas, field, marks) {
    const cell = fit(canvas), context = canvas.getContext("2d");
    for (let y = 0; y < state.rows; y++) {
      for (let x = 0; x < state.columns; x++) {
        context.fillStyle = color(field(x - state.query.x, y - state.query.y));
        context.fillRect(x * cell, y * cell, cell, cell);
      }
    }
    for (const mark of marks) mark(context, cell);
  }

  /** Outline the offsets that training saw: those of a trained grid to all sides of the query. */
  function markSeen(context, cell) {
    const [rows, columns] = data.grids[0], edge = 2;
    const left = Math.max(edge, (state.query.x - columns + 1) * cell);
    const top = Math.max(edge, (state.query.y - rows + 1) * cell);
    const right = Math.min(context.canvas.width - edge, (state.query.x + columns) * cell);
    const bottom = Math.min(context.canvas.height - edge, (state.query.y + rows) * cell);
    outline(context, () => context.rect(left, top, right - left, bottom - top), [7, 5]);
  }

  const markQuery = (context, cell) =>
    outline(context, () => context.rect(state.query.x * cell, state.query.y * cell, cell, cell));

  /** Make a mark at the middle of a patch, large enough to be seen on fine grids. */
  function markAt(spot, trace) {
    return (context, cell) => {
      const size = Math.max(0.32 * cell, 5 * (window.devicePixelRatio || 1));
      outline(context, () => trace(context, (spot.x + 0.5) * cell, (spot.y + 0.5) * cell, size));
    };
  }

  const ring = (context, x, y, size) => context.arc(x, y, size, 0, 2 * Math.PI);

  function diamond(context, x, y, size) {
    context.moveTo(x, y - size);
    for (const [dx, dy] of [[size, 0], [0, size], [-size, 0]]) context.lineTo(x + dx, y + dy);
    context.closePath();
  }

  // ---- the plot of frequencies

  /** Add an SVG element with attributes and text. */
  function add(parent, name, attributes, text = "") {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    parent.append(element);
  }

  /** Draw one dot a pair, with the square in which whole patches can tell waves apart. */
  function drawFrequencies(pairs) {
    const svg = byId("pairs-plot"), middle = 130;
    const scale = 95 / Math.max(Math.PI, ...pairs.flat().map(Math.abs));
    const at = (f) => middle + f * scale, pi = Math.PI * scale;
    svg.replaceChildren();
    add(svg, "path", { class: "axis", d: "M18 130H242M130 18V242" });
    add(svg, "rect", { class: "limit", x: middle - pi, y: middle - pi, width: 2 * pi, height: 2 * pi });
    for (const [x, y] of pairs) {
      const beyond = Math.max(Math.abs(x), Math.abs(y)) > Math.PI;
      add(svg, "circle", { class: beyond ? "pair beyond" : "pair", cx: at(x), cy: at(y), r: pairs.length > 64 ? 2 : 3 });
    }
    add(svg, "text", { x: 246, y: 134 }, "f_x");
    add(svg, "text", { x: middle, y: 256, "text-anchor": "middle" }, "f_y");
    add(svg, "text", { x: at(Math.PI) - 4, y: middle - 5, "text-anchor": "end" }, "π");
    add(svg, "text", { x: at(-Math.PI) + 4, y: middle - 5 }, "−π");
    add(svg, "text", { x: middle - pi, y: middle - pi - 6 }, "aliasing outside");
  }

  /** Describe the plot of frequencies. */
  function describeFrequencies(pairs) {
    const speeds = pairs.map(([x, y]) => Math.hypot(x, y));
    const beyond = pairs.filter(([x, y]) => Math.max(Math.abs(x), Math.abs(y)) > Math.PI).length;
    const count = `${pairs.length} pair${pairs.length === 1 ? "" : "s"}`;
    byId("pairs-text").textContent =
      `${count}; speeds from ${Math.min(...speeds).toPrecision(3)} to ${Math.max(...speeds).toPrecision(3)}; ` +
      `${beyond || "none"} beyond the aliasing limit (dashed square).`;
  }

  // ---- text

  const signed = (value) => (value > 0 ? `+${value}` : value < 0 ? `−${-value}` : "0");
  const number = (value) => value.toFixed(3).replace("-", "−").replace(/^−(0\.0+)$/, "$1");

  /** Format the response and offset of a patch. */
  function describe(spot) {
    const dx = spot.x - state.query.x, dy = spot.y - state.query.y;
    const seen = isSeen(dx, dy) ? "" : ", an offset never seen in training";
    return `r = ${number(state.field(dx, dy))} at (dx, dy) = (${signed(dx)}, ${signed(dy)})${seen}`;
  }

  /** Update the numbers next to the map. */
  function write(rival) {
    const { query, reading, rows, columns } = state, [trainedRows, trainedColumns] = data.grids[0];
    byId("query").textContent = `column ${query.x}, row ${query.y}, counted from 0`;
    byId("reading").textContent = reading ? describe(reading) : "point at a patch, or let clicks move the marker";
    byId("rival").textContent = rival ? describe(rival) : "none: the response decreases away from the query";
    const inside = rows <= trainedRows && columns <= trainedColumns;
    byId("seen").textContent = inside
      ? "all offsets of this grid"
      : `|dx| ≤ ${trainedColumns - 1}, |dy| ≤ ${trainedRows - 1}, inside the dashed line`;
  }

  /** Update the title of the map. */
  function writeTitle() {
    const who = state.allHeads ? `mean of ${data.heads[state.layer]} heads` : `head ${state.head}`;
    byId("map-title").textContent = `${data.layers[state.layer]}, ${who}, ${state.rows} × ${state.columns}`;
  }

  /** Update the hints: identical heads, windows, and scaling without effect. */
  function writeAbout() {
    const about = [];
    const own = data.tables[0][0], alike = data.frequencies[own[state.layer]][0].length === 1;
    if (alike && own.every((place) => place === own[0])) about.push("All heads of all layers have the same frequencies in this model.");
    else if (alike) about.push("All heads of this layer have the same frequencies.");
    if (data.windows) about.push("Attention is limited to windows, and offsets count tokens, which cover more pixels in later stages.");
    const larger = data.grids.length > 1 ? "select a larger one" : "larger ones are drawn with --sizes";
    if (state.grid === 0) about.push(`RoPE scaling has no effect on the trained grid; ${larger}.`);
    else if (state.grid === FREE) about.push("A custom size is shown without RoPE scaling.");
    else about.push(DESCRIPTIONS[data.scalings[state.scaling]] ?? "");
    byId("about").textContent = about.join(" ");
  }

  // ---- putting it together

  /** Draw again after the query or the reading mark has moved. */
  function draw() {
    const rival = findRival(), marks = [markSeen, markQuery];
    if (rival) marks.push(markAt(rival, diamond));
    if (state.reading) marks.push(markAt(state.reading, ring));
    drawMap(byId("map"), state.field, marks);
    if (state.axialField) drawMap(byId("axial"), state.axialField, [markSeen, markQuery]);
    write(rival);
  }

  /** Compute and draw again after another head, grid or scaling method was chosen. */
  function show() {
    const pairs = listPairs(chosen(data.tables, state.layer), state.allHeads ? null : state.head);
    const compare = byId("compare")?.checked ?? false;
    state.field = makeField(pairs, state.rows, state.columns);
    state.axialField = compare
      ? makeField(listPairs(chosen(data.axial, state.layer), null), state.rows, state.columns)
      : null;
    if (data.axial) byId("axial-figure").hidden = !compare;
    drawFrequencies(pairs);
    describeFrequencies(pairs);
    writeTitle();
    writeAbout();
    draw();
  }

  /** Take another grid, with the query in its middle. */
  function setGrid(rows, columns) {
    Object.assign(state, { rows, columns, reading: null });
    state.query = { x: Math.floor(columns / 2), y: Math.floor(rows / 2) };
  }

  /** Put the query or the reading mark on a patch, as far as the grid goes. */
  function move(which, x, y) {
    const inside = (place, count) => Math.min(Math.max(place, 0), count - 1);
    const spot = { x: inside(x, state.columns), y: inside(y, state.rows) }, old = state[which];
    if (old && old.x === spot.x && old.y === spot.y) return;
    state[which] = spot;
    draw();
  }

  // ---- controls

  /** Fill a select element with options. */
  function fill(select, texts, chosenIndex) {
    select.replaceChildren(...texts.map((text, value) => new Option(text, value, false, value === chosenIndex)));
  }

  function fillHeads() {
    state.head = Math.min(state.head, data.heads[state.layer] - 1);
    fill(byId("head"), [...Array(data.heads[state.layer]).keys()].map((head) => `head ${head}`), state.head);
  }

  /** Return the labels of the grids: trained, or how many times larger. */
  function nameGrids() {
    const [rows, columns] = data.grids[0];
    return data.grids.map(([h, w], index) => {
      const whole = h % rows === 0 && h / rows === w / columns;
      return `${h} × ${w}${index === 0 ? " (trained)" : whole ? ` (${h / rows}×)` : ""}`;
    });
  }

  /** Use the selected or entered grid; sizes out of range are ignored. */
  function takeGrid() {
    const value = byId("grid").value, rows = byId("rows"), columns = byId("columns");
    state.grid = value === FREE ? FREE : Number(value);
    byId("free").hidden = state.grid !== FREE;
    byId("scaling").disabled = state.grid === FREE;
    if (state.grid !== FREE) setGrid(...data.grids[state.grid]);
    else if (rows.checkValidity() && columns.checkValidity()) setGrid(rows.valueAsNumber, columns.valueAsNumber);
    show();
  }

  function fillControls() {
    fill(byId("layer"), data.layers, 0);
    fillHeads();
    fill(byId("grid"), nameGrids(), 0);
    byId("grid").append(new Option("a custom size", FREE));
    const name = (method, index) => (method === "none" ? "none (as trained)" : method) + (index && index === data.scaling ? " (the model's)" : "");
    fill(byId("scaling"), data.scalings.map(name), data.scaling);
    [byId("rows").value, byId("columns").value] = data.grids[0];
  }

  function listen() {
    const on = (id, take) => byId(id).addEventListener("change", (event) => { take(event.target.value); show(); });
    on("layer", (value) => { state.layer = Number(value); fillHeads(); });
    on("head", (value) => { state.head = Number(value); });
    on("scaling", (value) => { state.scaling = Number(value); });
    if (data.axial) on("compare", () => {});
    for (const id of ["grid", "rows", "columns"]) byId(id).addEventListener("change", takeGrid);
    for (const radio of document.querySelectorAll("input[name=pairs]")) {
      radio.addEventListener("change", () => { state.allHeads = radio.value === "layer"; byId("head").disabled = state.allHeads; show(); });
    }
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    window.addEventListener("resize", draw);
  }

  /** Handle pointer and keys on the map: a click or drag moves the selected item, hovering moves the marker. */
  function listenToMap() {
    const map = byId("map");
    const follow = (event) => {
      const moved = event.buttons ? document.querySelector("input[name=moves]:checked").value : "reading";
      const x = Math.floor((event.offsetX / map.clientWidth) * state.columns);
      move(moved, x, Math.floor((event.offsetY / map.clientHeight) * state.rows));
    };
    map.addEventListener("pointerdown", (event) => { map.setPointerCapture(event.pointerId); follow(event); });
    map.addEventListener("pointermove", follow);
    map.addEventListener("keydown", (event) => {
      const step = DIRECTIONS[event.key];
      if (!step) return;
      event.preventDefault();
      const which = event.shiftKey ? "reading" : "query", from = state[which] ?? state.query;
      move(which, from.x + step[0], from.y + step[1]);
    });
  }

  fillControls();
  byId("bar").style.background = `linear-gradient(to right, ${COLORS.map((rgb) => `rgb(${rgb})`).join(", ")})`;
  setGrid(...data.grids[0]);
  listen();
  listenToMap();
  show();

  // For tests: response of a head (null: mean of all heads) on the selected grid, with the selected RoPE scaling.
  window.explorer = {
    state,
    response: (layer, head, dx, dy) => response(listPairs(chosen(data.tables, layer), head), dx, dy),
  };
})();
