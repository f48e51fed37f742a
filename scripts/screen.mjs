/** Output for people: steps with their outcome, progress, tables. Plain lines where nobody watches. */

const LABEL_WIDTH = 36;
const BAR_WIDTH = 24;

export class Screen {
  #out;
  #live;
  #styled;
  #pending = '';

  /** @param {import('node:tty').WriteStream} [out] */
  constructor(out = process.stdout) {
    this.#out = out;
    this.#live = Boolean(out.isTTY);
    this.#styled = this.#live && !process.env.NO_COLOR;
  }

  title(text) {
    this.#out.write(`\n${this.#style('1', text)}\n\n`);
  }

  heading(text) {
    this.#out.write(`\n  ${this.#style('1', text)}\n`);
  }

  /** A sentence between the steps. */
  say(text) {
    this.#erase();
    this.#out.write(`  ${this.#style('2', text)}\n`);
  }

  /**
   * Does one step, and shows what it is while it lasts and how it came out.
   *
   * @template T
   * @param {string} label
   * @param {(progress: (fraction: number, note: string) => void) => Promise<T>} work
   * @param {(result: T) => string} [tell] the outcome in a few words
   * @returns {Promise<T>}
   */
  async step(label, work, tell = () => '') {
    this.#show(`${this.#style('2', '·')} ${label} …`);
    try {
      const result = await work((fraction, note) => this.#show(this.#bar(label, fraction, note)));
      this.#erase();
      const outcome = tell(result);
      const told = outcome && `${' '.repeat(LABEL_WIDTH - label.length)}${this.#style('2', outcome)}`;
      this.#out.write(`  ${this.#style('32', '✓')} ${label}${told}\n`);
      return result;
    } catch (error) {
      this.#erase();
      this.#out.write(`  ${this.#style('31', '✗')} ${label}\n`);
      throw error;
    }
  }

  /** Rows of cells under a line of headings. */
  table(headings, rows) {
    const widths = headings.map((heading, column) =>
      Math.max(heading.length, ...rows.map((row) => String(row[column]).length)),
    );
    const line = (cells) =>
      cells
        .map((cell, column) => String(cell).padEnd(widths[column]))
        .join('  ')
        .trimEnd();
    this.#out.write(`  ${this.#style('2', line(headings))}\n`);
    for (const row of rows) this.#out.write(`  ${line(row)}\n`);
  }

  end(text) {
    this.#erase();
    this.#out.write(`\n  ${text}\n\n`);
  }

  #bar(label, fraction, note) {
    const filled = Math.round(Math.min(fraction, 1) * BAR_WIDTH);
    const bar = `${'━'.repeat(filled)}${this.#style('2', '━'.repeat(BAR_WIDTH - filled))}`;
    return `${this.#style('2', '·')} ${label.padEnd(LABEL_WIDTH)}${bar}  ${this.#style('2', note)}`;
  }

  #show(text) {
    if (!this.#live) return;
    this.#erase();
    this.#pending = `  ${text}`;
    this.#out.write(this.#pending);
  }

  #erase() {
    if (this.#pending) this.#out.write('\r\u001b[2K');
    this.#pending = '';
  }

  #style(code, text) {
    return this.#styled ? `\u001b[${code}m${text}\u001b[0m` : text;
  }
}

/** `12.3 MB`, in decimal units. */
export function bytes(count) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  const power = count < 1000 ? 0 : Math.min(Math.floor(Math.log10(count) / 3), units.length - 1);
  return `${(count / 1000 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}

/** `812 Mbit/s`. */
export function rate(byteCount, elapsedMs) {
  return `${((byteCount * 8) / elapsedMs / 1000).toFixed(0)} Mbit/s`;
}

export function milliseconds(value) {
  return `${value.toFixed(value < 10 ? 2 : 0)} ms`;
}

export function seconds(elapsedMs) {
  return `${(elapsedMs / 1000).toFixed(1)} s`;
}
