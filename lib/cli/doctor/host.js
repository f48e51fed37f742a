'use strict';

const { execFile } = require('node:child_process');
const {
  accessSync,
  closeSync,
  constants,
  openSync,
  readFileSync,
  readlinkSync,
  statSync,
} = require('node:fs');
const { join } = require('node:path');

/** Where the engine looks for programs, whatever the PATH is. */
const PROGRAM_FOLDERS = ['/usr/sbin', '/sbin', '/usr/bin', '/bin', '/usr/local/sbin', '/usr/local/bin'];

const RUN_TIMEOUT_MS = 5000;

/** Package managers, and how they install. */
const MANAGERS = [
  ['apt-get', 'apt-get install'],
  ['dnf', 'dnf install'],
  ['zypper', 'zypper install'],
  ['pacman', 'pacman -S'],
  ['apk', 'apk add'],
];

/** What a check asks this host. */
class Host {
  /** @param {import('../process.js').Context} context */
  constructor({ env, now }) {
    this.env = env;
    this.now = now;
  }

  get isRoot() {
    return process.geteuid?.() === 0;
  }

  /** @returns {bigint} the effective capabilities of this process as bits; 0 where there are none */
  get capabilities() {
    const [, hex = '0'] = /^CapEff:\s*([0-9a-f]+)$/m.exec(this.read('/proc/self/status') ?? '') ?? [];
    return BigInt(`0x${hex}`);
  }

  /** A file's text; `undefined` if it cannot be read. */
  read(path) {
    try {
      return readFileSync(path, 'utf8');
    } catch {
      return undefined;
    }
  }

  /** Where a symbolic link points to; `undefined` if it is none. */
  link(path) {
    try {
      return readlinkSync(path);
    } catch {
      return undefined;
    }
  }

  exists(path) {
    return statSync(path, { throwIfNoEntry: false }) !== undefined;
  }

  /** @returns {string | null} the system's name for why a file cannot be opened to read and write */
  openError(path) {
    try {
      closeSync(openSync(path, 'r+'));
      return null;
    } catch (error) {
      return error.code;
    }
  }

  /** @returns {string | null} the system's name for why a file cannot be written, without opening it */
  writeError(path) {
    try {
      accessSync(path, constants.W_OK);
      return null;
    } catch (error) {
      return error.code;
    }
  }

  /** The path of a program; `undefined` if it is not installed. */
  program(name) {
    return PROGRAM_FOLDERS.map((folder) => join(folder, name)).find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return statSync(path).isFile();
      } catch {
        return false;
      }
    });
  }

  /**
   * Runs a program for what it prints.
   *
   * @returns {Promise<{ code: number | string | null, stdout: string, stderr: string }>}
   */
  run(path, args) {
    return new Promise((resolve) => {
      const options = { timeout: RUN_TIMEOUT_MS, killSignal: 'SIGKILL', encoding: 'utf8' };
      execFile(path, args, options, (error, stdout, stderr) => {
        resolve({ code: error ? (error.code ?? null) : 0, stdout, stderr });
      });
    });
  }

  /** `sudo apt-get install nftables`, with what this host has. */
  installCommand(packageName) {
    const [, command] = MANAGERS.find(([name]) => this.program(name)) ?? [];
    if (!command) return `install the package ${packageName}`;
    return this.sudo(`${command} ${packageName}`);
  }

  /** A command that needs root. */
  sudo(command) {
    return this.isRoot ? command : `sudo ${command}`;
  }
}

module.exports = { Host };
