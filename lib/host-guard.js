'use strict';

/**
 * Puts the host back when the process ends before its engines did.
 *
 * Routes, addresses and firewall rules outlive a process, and neither `process.exit()`, nor an
 * uncaught error, nor a signal's default action runs any clean-up of an addon. So there is one
 * `exit` listener while an engine exists, and listeners for the signals that end a process only
 * while something is set on the host: a program that merely loads this package handles its signals
 * as if it had not.
 */

const { isMainThread } = require('node:worker_threads');

const { WeakLink } = require('./weak-link.js');

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'];

/** All that the end of a process may be delayed by. */
const UNDO_TIMEOUT_MS = 2000;

/** @typedef {{ undo(timeoutMs: number): boolean }} Guarded */

/** Marks the listeners of every copy of this package in the process. */
const kOurs = Symbol.for('smartvpn.host-guard');

/**
 * Engines that exist. They are known weakly: one with nothing on the host may be collected, and its addon
 * then does what there is to do.
 *
 * @type {Set<WeakRef<WeakLink<Guarded>>>}
 */
const engines = new Set();

/** @type {WeakMap<Guarded, WeakLink<Guarded>>} */
const links = new WeakMap();
const collected = new FinalizationRegistry(forget);

/** Those of them that have set something on the host. */
const active = new Set();

let listening = false;

/**
 * Takes `engine` into care until {@link unguard}, or until it is collected.
 *
 * @param {Guarded} engine
 */
function guard(engine) {
  if (engines.size === 0) process.on('exit', undoAll);
  const link = new WeakLink(engine);
  engines.add(link.reference);
  links.set(engine, link);
  collected.register(link, link.reference, link);
}

/**
 * Says whether something of the guarded `engine` is set on the host, or is about to be. If so, it is kept
 * from being collected.
 */
function setActive(engine, isActive) {
  if (isActive) active.add(engine);
  else active.delete(engine);
  // A worker is sent no signals. The main thread's action for one ends it too.
  listen(isMainThread && active.size > 0);
}

/** The engine has ended, and nothing of it is left. */
function unguard(engine) {
  setActive(engine, false);
  const link = links.get(engine);
  link.cut();
  collected.unregister(link);
  forget(link.reference);
}

function forget(reference) {
  engines.delete(reference);
  if (engines.size === 0) process.removeListener('exit', undoAll);
}

function listen(on) {
  if (on === listening) return;
  listening = on;
  for (const signal of SIGNALS) {
    if (on) process.on(signal, onSignal);
    else process.removeListener(signal, onSignal);
  }
}

/** @param {NodeJS.Signals} signal */
function onSignal(signal) {
  if (programListens(signal)) return;
  undoAll();
  listen(false);
  // Without a listener the signal has its default action again. Where another copy of this package
  // listens too, it is called next; the last one raises.
  if (!process.listeners(signal).some(isOurs)) process.kill(process.pid, signal);
}
onSignal[kOurs] = true;

/**
 * Whether the program has a listener of its own, so that what the signal means is its business.
 * The popular `signal-exit` does as we do: it ends the process when no one else listens. Each would
 * wait for the other, so its listeners, which it counts for this purpose, don't count; the signal
 * raised again finds it alone.
 */
function programListens(signal) {
  const others = process.listeners(signal).filter((listener) => !isOurs(listener)).length;
  const version4 = globalThis[Symbol.for('signal-exit emitter')]?.count ?? 0;
  const version3 = process.__signal_exit_emitter__?.count ?? 0;
  return others > version4 + version3;
}

function isOurs(listener) {
  return listener[kOurs] === true;
}

function undoAll() {
  const deadline = performance.now() + UNDO_TIMEOUT_MS;
  for (const reference of engines) {
    const remaining = Math.max(1, Math.round(deadline - performance.now()));
    try {
      WeakLink.follow(reference)?.undo(remaining);
    } catch {
      // The next engine's turn; what this one left is repaired at the next start, from its journal.
    }
  }
}

module.exports = { guard, setActive, unguard };
