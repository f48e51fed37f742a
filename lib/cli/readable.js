'use strict';

const { readFileSync, statSync } = require('node:fs');
const { dirname } = require('node:path');

const { VpnError } = require('../error.js');

/** Whether a service finds its files, which has no power over other users' (no CAP_DAC_OVERRIDE). */

/** @typedef {{ name: string, uid: number, gids: number[] }} User */

/** @type {User} */
const ROOT = { name: 'root', uid: 0, gids: [0] };

const READ = 4;
const PASS = 1;

/**
 * A user of this host by name, out of the local files.
 *
 * @throws {VpnError} `invalid-argument`
 */
function resolveUser(name) {
  const [, , uid, gid] = entries('/etc/passwd').find((fields) => fields[0] === name) ?? [];
  if (uid === undefined) {
    throw new VpnError(
      'invalid-argument',
      `There is no user ${JSON.stringify(name)} on this host: \`sudo useradd --system --shell /usr/sbin/nologin NAME\` makes one.`,
    );
  }
  const member = entries('/etc/group').filter(([, , , members = '']) => members.split(',').includes(name));
  return { name, uid: Number(uid), gids: [gid, ...member.map(([, , group]) => group)].map(Number) };
}

function entries(file) {
  try {
    return readFileSync(file, 'utf8')
      .split('\n')
      .map((line) => line.split(':'));
  } catch {
    return [];
  }
}

/**
 * What keeps a user from reading a file, by owner and mode, with the command that mends it.
 *
 * @param {string} file absolute
 * @param {User} [user]
 * @returns {string | undefined}
 */
function readingObstacle(file, user = ROOT) {
  const folders = [];
  for (let folder = dirname(file); ; folder = dirname(folder)) {
    folders.unshift(folder);
    if (folder === '/') break;
  }
  for (const folder of folders) {
    const found = stat(folder);
    if (!found) return `${folder} is not there.`;
    if (!may(found, user, PASS)) {
      return `${user.name} may not enter ${folder}, where ${file} lies. Move it, for example to /etc/smartvpn.`;
    }
  }
  const found = stat(file);
  if (!found) return `${file} is not there.`;
  if (may(found, user, READ)) return undefined;
  return `${user.name} may not read ${file}: \`sudo chown ${user.name} ${file}\`.`;
}

function may({ uid, gid, mode }, user, wanted) {
  const shift = uid === user.uid ? 6 : user.gids.includes(gid) ? 3 : 0;
  return ((mode >> shift) & wanted) !== 0;
}

function stat(path) {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}

module.exports = { readingObstacle, resolveUser };
