'use strict';

const { existsSync } = require('node:fs');
const { dirname, join } = require('node:path');

const { VpnError } = require('./error.js');

/** Where `npm run build` leaves the packages of the platforms, in a checkout of the sources. */
const CHECKOUT = join(__dirname, '..', 'npm');

/** What the platform's package is named after, as `linux-x64-gnu`. */
function target() {
  const parts = [process.platform, process.arch];
  if (process.platform === 'linux') parts.push(isMusl() ? 'musl' : 'gnu');
  return parts.join('-');
}

/**
 * The daemon that belongs to this package, as an absolute path.
 *
 * @throws {VpnError} `unsupported-platform` when the package that holds it is not installed
 */
function findDaemon() {
  const packageName = `smartvpn-${target()}`;
  for (const folder of [installedFolder(packageName), join(CHECKOUT, target())]) {
    const file = folder && join(folder, 'bin', 'smartvpn_daemon');
    if (file && existsSync(file)) return file;
  }
  throw new VpnError(
    'unsupported-platform',
    `The daemon for ${target()} was not found: the package ${packageName} is not installed. ` +
      'In a checkout of the sources, `npm run build` makes it.',
  );
}

function installedFolder(packageName) {
  try {
    return dirname(require.resolve(`${packageName}/package.json`));
  } catch {
    return undefined;
  }
}

function isMusl() {
  return process.report.getReport().header.glibcVersionRuntime === undefined;
}

module.exports = { findDaemon, target };
