// Asphalt with markings. Tags: 1 road, 24 road line where the paint covers half of the pixel.
uniform float crossings[8];             // s of the zebra crossings near by

float band(float x, float w) {
  float f = fwidth(x) * 0.7;
  return 1.0 - smoothstep(w - f, w + f, abs(x));
}

#if defined(HIGHWAY)
float markings(float s, float d) {
  float a = abs(d);
  float dash = step(fract(s / style.x), style.y);
  float line = max(band(a - 2.6, 0.11), band(a - 13.4, 0.14));
  return max(line, dash * max(band(a - 6.2, 0.085), band(a - 9.8, 0.085)));
}
#elif defined(JUNCTIONS)
uniform float side_half;

float markings(float s, float d) {
  float a = abs(d);
  float line = max(band(a - 3.62, 0.075), band(d, 0.075) * step(fract(s / style.x), style.y));
  for (int i = 0; i < 8; ++i) {
    float x = s - crossings[i], beyond = abs(x) - side_half;
    if (beyond > 7.5) continue;
    if (beyond > 5.0 && beyond < 20.0) line = max(line, band(d, 0.075));
    if (beyond < 5.6) line = 0.0;
    if (beyond > 0.9 && beyond < 4.3) line = a < half_road() - 0.4 ? step(0.5, fract(d)) : 0.0;
    // Stop lines stand before the junction as each direction sees it.
    else if (abs(beyond - 6.0) < 0.22 && x * d > 0.0 && a < 3.6) line = 1.0;
  }
  return line;
}
#elif defined(SUBURB)
float markings(float s, float d) {
  float a = abs(d), line = 0.0;
  for (int i = 0; i < 8; ++i) {
    float x = s - crossings[i];
    if (abs(x) < 1.7) line = a < half_road() - 0.4 ? step(0.5, fract(d)) : 0.0;
  }
  return max(line, band(d, 0.05) * step(fract(s / style.x), 0.3));
}
#else
float markings(float s, float d) {
  float a = abs(d);
  float line = max(band(a - 3.62, 0.075), band(d, 0.075) * step(fract(s / style.x), style.y));
  for (int i = 0; i < 8; ++i) {
    float x = s - crossings[i];
    if (abs(x) > 6.0) continue;
    if (abs(x) < 1.7) line = a < half_road() - 0.4 ? step(0.5, fract(d)) : 0.0;
    else if (abs(x + 3.4) < 0.22 && d < 0.0 && d > -3.6) line = 1.0;
    else if (abs(x - 3.4) < 0.22 && d > 0.0 && d < 3.6) line = 1.0;
  }
  return line;
}
#endif

void main() {
  float s = street.x, d = street.y;
#ifdef HIGHWAY
  if (abs(d) < 2.0) {                   // the strip of grass between the carriageways
    finish(vec3(0.20, 0.27, 0.11) * (0.7 + 0.6 * fbm(street * 5.0)), 0.02, 10u);
    return;
  }
#endif
  float grain = fbm(street * vec2(3.0, 9.0)), broad = fbm(street * vec2(0.08, 0.5) + seed);
  vec3 c = vec3(0.23, 0.23, 0.24) * style.z * (0.75 + 0.35 * grain + 0.25 * broad);
  float patched = smoothstep(0.62, 0.7, fbm(street * vec2(0.15, 0.6) + seed * 3.0));
  c = mix(c, vec3(0.13), 0.5 * patched);
  c *= 1.0 - 0.35 * band(noise(vec2(s * 0.35, d * 0.35 + seed)) - 0.5, 0.012);   // cracks
  float line = markings(s, d);
  float wear = 0.6 + 0.4 * smoothstep(0.25, 0.6, fbm(street * 5.0));
  c = mix(c, vec3(0.86, 0.86, 0.82) * wear, line * 0.95);
  if (wet > 0.0) {
    float puddle = smoothstep(0.45, 0.6, fbm(street * vec2(0.25, 0.5) + seed * 5.0));
    vec3 r = reflect(normalize(world - eye), UP);
    float mirror = wet * puddle * 0.45 * pow(1.0 - max(r.z, 0.0), 3.0);
    c = mix(c * (1.0 - 0.4 * wet), fog_color * (0.6 + 0.4 * r.z), mirror);
#ifdef WET_NIGHT
    // Lamps ahead, mirrored as long streaks in the wet.
    vec3 v = normalize(world - eye);
    float side = lamps.w > 1.5 && d > 0.0 ? 1.0 : -1.0, glint = 0.0;
    float next = ceil((world.x - lamps.y) / lamps.x) * lamps.x + lamps.y;
    for (int i = 0; i < 2; ++i) {
      vec3 to = vec3(next + float(i) * lamps.x - world.x, side * lamps.z - d, 6.8);
      vec2 off = normalize(to.xy) - normalize(v.xy);
      float steep = to.z * inversesqrt(dot(to, to)) + v.z;
      glint += exp(-dot(off, off) * 900.0 - steep * steep * 18.0) / (1.0 + to.x * to.x * 1e-4);
    }
    c += (0.5 + puddle) * wet * glint * vec3(1.1, 0.95, 0.65);
#endif
  }
  finish(c, 0.08 + wet * 0.8, line > 0.5 ? 24u : 1u);
}
