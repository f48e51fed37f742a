'use strict';

const { randomUUID } = require('node:crypto');
const { open, readFile, realpath, rename, rm } = require('node:fs/promises');
const { dirname, join, resolve } = require('node:path');
const { fileURLToPath } = require('node:url');

const { copyConfig } = require('./arguments.js');
const { VpnError, toVpnError } = require('./error.js');
const { loadNative } = require('./native.js');

/** The members that name files; a relative one starts at the configuration's folder. */
const PATHS = ['tlsCa', 'tlsCert', 'tlsKey', 'stateDir'];
const PEM_START = '-----BEGIN';

/** Checks, reads and writes configurations. What is valid, Rust decides for all ways in alike. */
class VpnConfig {
  static validateClientConfig(config) {
    validate('client', config);
  }

  static validateServerConfig(config) {
    validate('server', config);
  }

  static async loadFromFile(path) {
    const file = toFilePath(path);
    let text;
    try {
      text = await readFile(file, 'utf8');
    } catch (cause) {
      throw fileError(`${file} could not be read`, cause);
    }
    const config = copyConfig(parse(text, file));
    for (const name of PATHS) {
      const value = config[name];
      if (typeof value === 'string' && !value.startsWith(PEM_START)) {
        config[name] = resolve(dirname(file), value);
      }
    }
    return config;
  }

  static async saveToFile(path, config) {
    const text = `${JSON.stringify(copyConfig(config), null, 2)}\n`;
    const file = toFilePath(path);
    try {
      await replaceFile(await followLinks(file), text);
    } catch (cause) {
      throw fileError(`${file} could not be written`, cause);
    }
  }
}

function validate(mode, config) {
  const fault = loadNative().validateConfig(mode, JSON.stringify(copyConfig(config)));
  if (fault !== null) throw toVpnError(JSON.parse(fault));
}

function parse(text, file) {
  try {
    return JSON.parse(text);
  } catch (error) {
    // The engine's own message may quote the text, and so a key.
    const position = /position (\d+)/.exec(error.message)?.[1];
    const lines = position && text.slice(0, position).split('\n');
    const where = lines ? ` (line ${lines.length}, column ${lines.at(-1).length + 1})` : '';
    throw new VpnError('invalid-config', `${file} is not valid JSON${where}.`, { path: '' });
  }
}

/** Readers find the old text or the new one, whole, also after a power cut. */
async function replaceFile(file, text) {
  const folder = dirname(file);
  const temporary = join(folder, `.${randomUUID()}.tmp`);
  try {
    await writeDurably(temporary, text);
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await withHandle(await open(folder), (handle) => handle.sync());
}

async function writeDurably(file, text) {
  // 0600 from the first byte on: it may hold a private key.
  await withHandle(await open(file, 'wx', 0o600), async (handle) => {
    await handle.chmod(0o600);
    await handle.writeFile(text);
    await handle.sync();
  });
}

async function withHandle(handle, use) {
  try {
    await use(handle);
  } finally {
    await handle.close();
  }
}

/** What a symbolic link points to is replaced, not the link. */
async function followLinks(file) {
  try {
    return await realpath(file);
  } catch {
    return file;
  }
}

function toFilePath(path) {
  if (path instanceof URL && path.protocol === 'file:') return fileURLToPath(path);
  if (typeof path === 'string' && path !== '') return resolve(path);
  throw new VpnError('invalid-argument', 'path must be a string or a file: URL.');
}

function fileError(what, cause) {
  return new VpnError('file-error', `${what}: ${cause.message}.`, { cause });
}

module.exports = { VpnConfig };
