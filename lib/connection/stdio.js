'use strict';

const { spawn } = require('node:child_process');

const { VpnError, toVpnError } = require('../error.js');
const { findDaemon } = require('../platform.js');
const { waitForEnd } = require('../process-end.js');
const { Channel } = require('./channel.js');
const {
  Connection,
  kAnswer,
  kEvent,
  kFail,
  kFinish,
  kOpen,
  kOpened,
  kPhase,
  kSend,
  kShutDown,
} = require('./connection.js');
const { LineReader, toRequestLine } = require('./lines.js');
const { MAX_LOG_BYTES, parseLogLine } = require('./log-line.js');

/** The daemon tells its peers within 2 s and undoes what it set; what takes longer, hangs. */
const END_TIMEOUT_MS = 5000;

/** How long it may then take after SIGTERM, before it is killed. */
const TERMINATE_TIMEOUT_MS = 2000;

/** How long what it had to say is waited for once it has ended; only a process it started can delay that. */
const DRAIN_TIMEOUT_MS = 500;

/** How much a failed start quotes of what the daemon wrote to its standard error. */
const QUOTED_LINES = 3;

/** A connection to a daemon that is a child of this process: it ends with the connection, or with us. */
class StdioConnection extends Connection {
  #mode;
  #path;
  /** @type {import('node:child_process').ChildProcess} */
  #child;
  /** @type {Channel} */
  #channel;
  #timer;
  /** Whether it runs, as far as is known here. */
  #running = false;
  /** What the daemon said it failed of, before it ended. */
  #failure;
  /** The last lines of its standard error. */
  #words = [];
  #killed = false;

  /**
   * @param {{ daemonPath?: string }} options
   * @param {'client' | 'server'} mode
   * @param {import('./connection.js').ConnectionObserver} observer
   * @throws {VpnError} `unsupported-platform` when there is no daemon for this platform
   */
  constructor({ daemonPath }, mode, observer) {
    super(observer);
    this.#mode = mode;
    this.#path = daemonPath ?? findDaemon();
  }

  undo(timeoutMs) {
    if (!this.#running) return true;
    this.#child.kill('SIGTERM');
    return waitForEnd(this.#child.pid, timeoutMs);
  }

  [kOpen]() {
    try {
      // A session of its own: a terminal's Ctrl-C is for the program, which decides what it means.
      this.#child = spawn(this.#path, ['--management', '--mode', this.#mode], {
        stdio: 'pipe',
        detached: true,
      });
    } catch (cause) {
      this.#onSpawnError(cause);
      return;
    }
    const { stdin, stdout, stderr } = this.#child;
    this.#child.on('error', (cause) => this.#onSpawnError(cause));
    if (this.#child.pid === undefined) return;
    this.#running = true;
    // Only the keep-alive of the engine holds the event loop.
    for (const handle of [this.#child, stdin, stdout, stderr]) handle.unref();
    // A broken pipe means that the daemon has ended, which is told in a moment.
    for (const stream of [stdin, stdout, stderr]) stream.on('error', () => {});
    this.#child.on('exit', () => this.#onExit());
    this.#child.on('close', (code, signal) => this.#onClose(code, signal));
    stdout.on('end', () => this.#onSilence());
    this.#readLog(stderr);
    this.#channel = new Channel({ input: stdout, output: stdin }, this.#mode, this.#path, {
      onReady: () => this[kOpened](),
      onAnswer: (id, success, body) => this[kAnswer](id, success, body),
      onEvent: (name, data) => this.#onEvent(name, data),
      onFault: (error) => this.#onFault(error),
    });
  }

  [kSend](id, method, params) {
    this.#channel.send(toRequestLine(id, method, params, this.#channel.waitingBytes));
  }

  [kShutDown]() {
    if (!this.#running) return;
    // The end of its input is what tells it to end.
    this.#child.stdin.end();
    this.#after(END_TIMEOUT_MS, () => this.#terminate());
  }

  #onSpawnError(cause) {
    if (this.#running) return;
    if (this[kPhase] === 'ending') {
      this[kFinish]({ code: 0, signal: null });
      return;
    }
    const reasons = {
      ENOENT: 'there is no such file. Give its path as daemonPath, or leave that out for the bundled one',
      EACCES: 'it is not executable for this user. `chmod +x` mends that, if the file is right',
    };
    const reason = reasons[cause.code] ?? cause.message;
    const error = new VpnError('control-unavailable', `${this.#path} could not be started: ${reason}.`, {
      cause,
    });
    this[kFail](error);
    this[kFinish]({ code: 1, signal: null, error });
  }

  #readLog(stderr) {
    const reader = new LineReader(MAX_LOG_BYTES);
    const tell = (line) => {
      const log = parseLogLine(line, () => new Date());
      if (log === null) return;
      if (this[kPhase] === 'opening') this.#words = [...this.#words, log.message].slice(-QUOTED_LINES);
      this[kEvent]('log', log);
    };
    stderr.on('data', (chunk) => reader.push(chunk).forEach(tell));
    stderr.on('end', () => reader.end().forEach(tell));
  }

  #onEvent(name, data) {
    // Its engine failed, and it ends by itself.
    if (name === 'exit') this.#failure = toVpnError(data);
    else this[kEvent](name, data);
  }

  /** It is no daemon of ours, or has lost its mind: no use to ask it to end. */
  #onFault(error) {
    this[kFail](error);
    this.#terminate();
  }

  /** Its output has ended. A daemon that lives on without one is of no use. */
  #onSilence() {
    if (!this.#running || this[kPhase] === 'ending' || this[kPhase] === 'failing') return;
    this.#after(DRAIN_TIMEOUT_MS, () => {
      this.#onFault(new VpnError('control-unavailable', `${this.#path} closed its output, and did not end.`));
    });
  }

  #terminate() {
    this.#child.stdin.destroy();
    this.#child.kill('SIGTERM');
    this.#after(TERMINATE_TIMEOUT_MS, () => {
      this.#killed = true;
      this.#child.kill('SIGKILL');
    });
  }

  #onExit() {
    this.#running = false;
    this.#after(DRAIN_TIMEOUT_MS, () => {
      for (const stream of this.#child.stdio) stream.destroy();
    });
  }

  /** It has ended, and all that it said was heard. */
  #onClose(code, signal) {
    clearTimeout(this.#timer);
    this.#channel.close();
    const asked = this[kPhase] === 'ending';
    if (asked && code === 0) this[kFinish]({ code: 0, signal: null });
    else if (this[kPhase] === 'failing') this[kFinish]({ code, signal });
    else this[kFinish]({ code, signal, error: this.#endError(asked, signal ?? `exit code ${code}`) });
  }

  #endError(asked, how) {
    if (this.#killed) {
      return new VpnError(
        'internal',
        'The daemon did not end in time and was killed. What it left on the host is undone at its next start. ' +
          'Please report this.',
      );
    }
    if (this.#failure) return this.#failure;
    if (asked) return new VpnError('internal', `The daemon did not end in good order: ${how}.`);
    if (this[kPhase] === 'opening') {
      const words = this.#words.map((line) => `\n${line}`).join('');
      return new VpnError('control-unavailable', `${this.#path} ended before it was ready (${how}).${words}`);
    }
    return new VpnError('daemon-exited', `The daemon ended (${how}). start() starts another.`);
  }

  #after(delayMs, act) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(act, delayMs);
  }
}

module.exports = { StdioConnection };
