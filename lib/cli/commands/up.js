'use strict';

const { constants } = require('node:os');

const { VpnClient } = require('../../client.js');
const { VpnError } = require('../../error.js');
const { VpnServer } = require('../../server.js');
const { loadConfig } = require('../config-file.js');
const { JsonDisplay, LineDisplay, LiveDisplay, summary } = require('../displays.js');
const { UsageError } = require('../exit-codes.js');
const { isLive } = require('../terminal.js');

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'];

/** How often the traffic is looked at: for eyes, and for a log. */
const INTERVALS_SECS = { live: 1, lines: 10 };

const EVENTS = {
  client: ['status', 'quality', 'log', 'lost'],
  server: ['status', 'client-connected', 'client-resumed', 'client-disconnected', 'warning', 'log', 'lost'],
};

/** @type {import('../arguments.js').Command} */
module.exports = {
  name: 'up',
  summary: 'connects or serves in the foreground, until Ctrl-C',
  details: `
A configuration with serverUrl connects, one with listenAddr serves. On a terminal there is
a live view, elsewhere a line for each event; --json prints JSON lines. Ctrl-C tells the
peers and puts the host back; a second one ends at once.
`,
  positionals: [{ name: 'FILE', help: 'the configuration' }],
  options: {
    interval: { value: 'SECS', help: 'Seconds from one look at the traffic to the next (1 live, else 10)' },
    lines: { help: 'Print lines also on a terminal' },
  },

  async run(context, { values, positionals: [file] }) {
    const { mode, config } = await loadConfig(file);
    const live = !values.json && !values.lines && isLive(context.stdout, context.env);
    const intervalMs = 1000 * parseInterval(values.interval, live);
    const vpn = mode === 'client' ? new VpnClient() : new VpnServer();
    const end = new End(context, vpn);
    const display = makeDisplay(context, { mode, config, live, json: values.json });
    let statistics;
    try {
      statistics = await run(vpn, { mode, config, end, display, intervalMs });
    } finally {
      display.close();
      await end.finish();
    }
    if (statistics && !values.json) context.stdout.write(`${summary(statistics)}\n`);
  },
};

/** Brings the VPN up and shows it until it ends; resolves with what passed. */
async function run(vpn, { mode, config, end, display, intervalMs }) {
  for (const name of EVENTS[mode]) vpn.on(name, (data) => display.event(name, data));
  try {
    await begin(vpn, mode, config);
  } catch (error) {
    if (end.asked) return undefined;
    throw error;
  }
  end.watch(vpn);
  let last;
  const look = async () => {
    const snapshot = await sample(vpn, mode).catch(() => undefined);
    if (!snapshot || end.ended) return;
    last = snapshot.statistics;
    display.sample(snapshot);
  };
  await look();
  const timer = setInterval(look, intervalMs);
  try {
    await end.reached;
  } finally {
    clearInterval(timer);
  }
  // The last look may be a while ago; and after a failure there is nobody to ask.
  return (await vpn.getStatistics().catch(() => undefined)) ?? last;
}

async function begin(vpn, mode, config) {
  if (mode === 'server') return vpn.start(config);
  await vpn.start();
  await vpn.connect(config);
}

async function sample(vpn, mode) {
  const [status, statistics, clients] = await Promise.all([
    vpn.getStatus(),
    vpn.getStatistics(),
    mode === 'server' ? vpn.listClients() : undefined,
  ]);
  return { mode, status, statistics, clients, quality: statistics.quality };
}

function makeDisplay(context, { mode, config, live, json }) {
  if (json) return new JsonDisplay(context);
  if (!live) return new LineDisplay(context, mode);
  return new LiveDisplay(context, mode, config.serverUrl ?? config.listenAddr);
}

function parseInterval(text, live) {
  if (text === undefined) return live ? INTERVALS_SECS.live : INTERVALS_SECS.lines;
  const seconds = Number(text);
  if (/^\d{1,5}(\.\d{1,3})?$/.test(text) && seconds >= 0.1) return seconds;
  throw new UsageError(`--interval must be a number of seconds from 0.1 to 99999, not "${text}".`);
}

/**
 * The end of `up`: by a signal, because nobody reads what it prints, or because the VPN has failed.
 * The first signal ends in good order, a second one at once.
 */
class End {
  /** Whether it was asked for. */
  asked = false;
  /** Whether it has come. */
  ended = false;
  /** @type {Promise<void>} settled when it has come: rejects with what failed */
  reached;

  #context;
  #vpn;
  #up = false;
  #resolve;
  #reject;

  constructor(context, vpn) {
    this.#context = context;
    this.#vpn = vpn;
    this.reached = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // What failed before anybody waits is told by the call that failed.
    this.reached.catch(() => {});
    for (const signal of SIGNALS) context.process.on(signal, this.#onSignal);
    context.unread.addEventListener('abort', this.#ask);
  }

  /** The VPN is up: from now on a failure of it is the end. */
  watch(vpn) {
    this.#up = true;
    vpn.on('status', ({ state, lastError, lastErrorCode }) => {
      if (state === 'error') this.#fail(new VpnError(lastErrorCode, lastError));
    });
    vpn.on('exit', ({ error }) => {
      if (error) this.#fail(error);
    });
  }

  /** Takes the VPN down, and lets go of the process. */
  async finish() {
    this.ended = true;
    await this.#vpn.close();
    for (const signal of SIGNALS) this.#context.process.off(signal, this.#onSignal);
    this.#context.unread.removeEventListener('abort', this.#ask);
  }

  #onSignal = (signal) => {
    if (this.asked) this.#context.exit(128 + constants.signals[signal]);
    else this.#ask();
  };

  #ask = () => {
    this.asked = true;
    this.ended = true;
    this.#resolve();
    // Where nothing is up yet, the call that would bring it up is ended.
    if (!this.#up) this.#vpn.stop();
  };

  #fail(error) {
    this.ended = true;
    this.#reject(error);
  }
}
