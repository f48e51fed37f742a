'use strict';

/** What a terminal is taken for that does not tell its size. */
const DEFAULT_SIZE = { columns: 80, rows: 24 };

const ENTER = '\u001b[?1049h\u001b[?25l'; // the other screen, without a cursor
const LEAVE = '\u001b[?25h\u001b[?1049l';
const HOME = '\u001b[H';
const ERASE_LINE = '\u001b[K';
const ERASE_BELOW = '\u001b[J';

/** Whether a live view can be drawn there. */
function isLive(stdout, env) {
  return Boolean(stdout.isTTY) && env.TERM !== 'dumb';
}

/**
 * A terminal's other screen, while a live view is shown. What was on the terminal before is there
 * again afterwards, however the process ends, short of SIGKILL.
 */
class Terminal {
  #stdout;
  #process;
  #redraw;
  #open = false;
  #leave = () => this.close();

  /**
   * @param {import('./process.js').Context} context
   * @param {() => void} redraw called when the terminal has another size, or was left for a while
   */
  constructor({ stdout, process }, redraw) {
    this.#stdout = stdout;
    this.#process = process;
    this.#redraw = () => {
      // What another program, or the wrapped lines of before, left there.
      this.#stdout.write(ENTER);
      redraw();
    };
  }

  get size() {
    const { columns, rows } = this.#stdout;
    return { columns: columns || DEFAULT_SIZE.columns, rows: rows || DEFAULT_SIZE.rows };
  }

  open() {
    if (this.#open) return;
    this.#open = true;
    this.#stdout.write(ENTER);
    this.#stdout.on('resize', this.#redraw);
    this.#process.on('SIGCONT', this.#redraw);
    this.#process.on('exit', this.#leave);
  }

  /** @param {string[]} lines none wider than the terminal */
  draw(lines) {
    if (!this.#open) return;
    const text = lines.map((line) => `${line}${ERASE_LINE}`).join('\n');
    // In one write, so that no half of it is seen.
    this.#stdout.write(`${HOME}${text}${ERASE_BELOW}`);
  }

  close() {
    if (!this.#open) return;
    this.#open = false;
    this.#stdout.off('resize', this.#redraw);
    this.#process.off('SIGCONT', this.#redraw);
    this.#process.off('exit', this.#leave);
    this.#stdout.write(LEAVE);
  }
}

module.exports = { Terminal, isLive };
