'use strict';

// For `node --require`: a program that imports the package gets a fake addon, which knows its files.

const { readFileSync, writeFileSync } = require('node:fs');

const { installFakeNative } = require('./fake-native.js');

installFakeNative({
  loads: (path) => ({ config: JSON.parse(readFileSync(path, 'utf8')) }),
  saves(path, config) {
    writeFileSync(path, JSON.stringify(config));
    return null;
  },
});
