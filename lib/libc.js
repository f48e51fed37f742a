'use strict';

const { closeSync, openSync, readSync } = require('node:fs');

/** How the dynamic loader is called that musl's programs ask for. */
const MUSL_LOADER = /\/ld-musl-[^/]+$/;

/**
 * Whether a program is linked against musl: it names its loader in its ELF header. An addon must be
 * of the libc of the program that loads it, whatever else the system has installed.
 */
function usesMusl(program) {
  let file;
  try {
    file = openSync(program, 'r');
    return MUSL_LOADER.test(readInterpreter(file) ?? '');
  } catch {
    return false;
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

const ELF_MAGIC = '\x7fELF';
const ELF_CLASS_64 = 2;
const ELF_LITTLE_ENDIAN = 1;
const PT_INTERP = 3;
/** Of an ELF header, and of one program header. */
const HEADER_BYTES = 64;
const ENTRY_BYTES = 56;
/** More than any path has. */
const PATH_BYTES = 4096;

/** The path of the dynamic loader, `undefined` for what is no 64-bit program or needs none. */
function readInterpreter(file) {
  const header = read(file, 0, HEADER_BYTES);
  const is64Bit = header[4] === ELF_CLASS_64 && header[5] === ELF_LITTLE_ENDIAN;
  if (header.toString('latin1', 0, 4) !== ELF_MAGIC || !is64Bit) return undefined;
  const table = Number(header.readBigUInt64LE(32));
  const entryBytes = header.readUInt16LE(54);
  const entries = header.readUInt16LE(56);
  for (let index = 0; index < entries; index++) {
    const entry = read(file, table + index * entryBytes, ENTRY_BYTES);
    if (entry.readUInt32LE(0) !== PT_INTERP) continue;
    const [offset, size] = [8, 32].map((at) => Number(entry.readBigUInt64LE(at)));
    return read(file, offset, Math.min(size, PATH_BYTES)).toString('utf8').replace(/\0.*$/s, '');
  }
  return undefined;
}

function read(file, position, length) {
  const buffer = Buffer.alloc(length);
  const count = readSync(file, buffer, 0, length, position);
  if (count < length) throw new RangeError('The file ends too early.');
  return buffer;
}

module.exports = { usesMusl };
