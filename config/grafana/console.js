// Rounds before it names the unit: three digits are what an axis has room for.
function short(y) {
  return String(Number(y.toPrecision(3)));
}

function scaled(y, base, prefixes, unit) {
  let step = 0;
  while (Math.abs(y) >= base && step < prefixes.length - 1) {
    y = y / base;
    step = step + 1;
  }
  return short(y) + prefixes[step] + unit;
}

function decimal(unit) {
  return y => y === null ? "" : scaled(y, 1000, ["", "k", "M", "G", "T"], unit);
}

function binary(unit) {
  return y => y === null ? "" : scaled(y, 1024, [" ", " Ki", " Mi", " Gi", " Ti"], unit);
}

function percent(y) {
  return y === null ? "" : short(y * 100) + " %";
}

// The library marks minutes by their bare number; an axis reads better with the time of day.
Rickshaw.Fixtures.Time = (original => function () {
  original.call(this);
  this.units.forEach(unit => {
    if (unit.seconds < 86400) {
      unit.formatter = date => date.toISOString().substring(11, unit.seconds < 60 ? 19 : 16);
    }
  });
})(Rickshaw.Fixtures.Time);

