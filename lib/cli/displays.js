'use strict';

const { stateWord } = require('./describe.js');
const { Meter } = require('./meter.js');
const { Terminal } = require('./terminal.js');
const { bitRate, bytes, duration, milliseconds, percent, printable } = require('./text.js');
const { render } = require('./view.js');

/** Messages that a live view remembers; it shows the last few. */
const MESSAGES = 10;

/**
 * How `up` shows what happens. Each has `event(name, data)`, `sample(snapshot)` and `close()`.
 *
 * @typedef {LiveDisplay | LineDisplay | JsonDisplay} Display
 */

/** A view on a terminal that changes with what it shows. */
class LiveDisplay {
  #context;
  #target;
  #terminal;
  #meter = new Meter();
  #messages = [];
  #snapshot;

  /**
   * @param {import('./process.js').Context} context
   * @param {'client' | 'server'} mode
   * @param {string} target
   */
  constructor(context, mode, target) {
    this.#context = context;
    this.#target = target;
    this.#snapshot = { mode, status: { state: 'connecting' } };
    this.#terminal = new Terminal(context, () => this.#draw());
    this.#terminal.open();
    this.#draw();
  }

  event(name, data) {
    if (name === 'status') this.#snapshot = { ...this.#snapshot, status: data };
    const message = describeEvent(this.#snapshot.mode, name, data);
    if (message && name !== 'status') this.#messages = [...this.#messages, message].slice(-MESSAGES);
    this.#draw();
  }

  sample(snapshot) {
    this.#snapshot = snapshot;
    this.#meter.add(snapshot.statistics, performance.now());
    this.#draw();
  }

  close() {
    this.#terminal.close();
  }

  #draw() {
    const { size } = this.#terminal;
    const shown = {
      meter: this.#meter,
      target: this.#target,
      messages: this.#messages,
      now: this.#context.now(),
    };
    this.#terminal.draw(render(this.#snapshot, shown, { ...size, colours: !this.#context.env.NO_COLOR }));
  }
}

/** A line for each thing that happens, and now and then one about the traffic. */
class LineDisplay {
  #context;
  #mode;
  #meter = new Meter();

  constructor(context, mode) {
    this.#context = context;
    this.#mode = mode;
  }

  event(name, data) {
    const text = describeEvent(this.#mode, name, data);
    if (text) this.#print(text);
  }

  sample({ statistics, quality, clients }) {
    this.#meter.add(statistics, performance.now());
    const { sent, received } = this.#meter;
    if (sent.length === 0) return;
    const parts = [
      `sent ${bytes(statistics.bytesSent)} (${bitRate(sent.at(-1))})`,
      `received ${bytes(statistics.bytesReceived)} (${bitRate(received.at(-1))})`,
      clients && `${clients.length} ${clients.length === 1 ? 'client' : 'clients'}`,
      quality &&
        `round trip ${milliseconds(quality.srttMs)}, loss ${percent(quality.lossRatio)}, ${quality.linkHealth}`,
    ];
    this.#print(parts.filter(Boolean).join(', '));
  }

  close() {}

  #print(text) {
    this.#context.stdout.write(`${new Date(this.#context.now()).toISOString()} ${text}\n`);
  }
}

/** JSON lines: every event, and what was sampled as `statistics`. */
class JsonDisplay {
  #context;

  constructor(context) {
    this.#context = context;
  }

  event(event, data) {
    const time = new Date(this.#context.now()).toISOString();
    this.#context.stdout.write(`${JSON.stringify({ time, event, data })}\n`);
  }

  sample({ statistics }) {
    this.event('statistics', statistics);
  }

  close() {}
}

/** An event in words; nothing for those that the samples tell as well. */
function describeEvent(mode, name, data) {
  switch (name) {
    case 'status':
      return describeStatus(mode, data);
    case 'client-connected': {
      const { clientId, assignedIp, name: label, remoteAddr } = data;
      const who = [label && `"${printable(label)}"`, remoteAddr && `from ${printable(remoteAddr)}`];
      return ['client', clientId, 'connected:', assignedIp, ...who].filter(Boolean).join(' ');
    }
    case 'client-resumed':
      return `client ${data.clientId} is back: ${data.assignedIp}`;
    case 'client-disconnected':
      return `client ${data.clientId} disconnected: ${data.reason}`;
    case 'warning':
      return `warning: ${printable(data.message)} (${data.code})`;
    case 'lost':
      return `${data.count} events were missed`;
    case 'log':
      return ['error', 'warn'].includes(data.level) ? `${data.level}: ${printable(data.message)}` : undefined;
    default:
      return undefined;
  }
}

function describeStatus(mode, { state, assignedIp, assignedIp6, serverAddr, lastError, lastErrorCode }) {
  const addresses = [assignedIp, assignedIp6].filter(Boolean).join(', ');
  const where = {
    client: [addresses && `as ${addresses}`, serverAddr && `to ${serverAddr}`],
    server: [serverAddr && `on ${serverAddr}`, addresses && `as ${addresses}`],
  }[mode];
  const failure = ['error', 'reconnecting'].includes(state) && lastError;
  const details = state === 'connected' ? where.filter(Boolean).join(' ') : '';
  return [
    details ? `${stateWord(mode, state)} ${details}` : stateWord(mode, state),
    failure ? `: ${printable(lastError)} (${lastErrorCode})` : '',
  ].join('');
}

/** What there is to say at the end. */
function summary({ bytesSent, bytesReceived, uptimeSeconds }) {
  return `Ended after ${duration(uptimeSeconds * 1000)}: sent ${bytes(bytesSent)}, received ${bytes(bytesReceived)}.`;
}

module.exports = { JsonDisplay, LineDisplay, LiveDisplay, summary };
