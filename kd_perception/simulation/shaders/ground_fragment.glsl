// Road with markings, sidewalk, terrain. Tags: 1 road, 2 sidewalk, 10 terrain, 24 road line.
in vec3 world;
in vec2 street;
layout(location = 0) out vec4 pixel;
layout(location = 1) out uvec2 ids_out;
uniform vec4 widths;                    // half road left, right; walk left, right
uniform vec4 style;                     // dash length, dash share, asphalt tone, dryness of grass
uniform float crossings[8];             // s of the zebra crossings near by

float band(float x, float w) {
  float f = fwidth(x) * 0.7;
  return 1.0 - smoothstep(w - f, w + f, abs(x));
}

void main() {
  float s = street.x, d = street.y, a = abs(d);
  float road = d > 0.0 ? widths.x : widths.y;
  float walk = road + (d > 0.0 ? widths.z : widths.w);
  vec3 n = vec3(0, 0, 1), c;
  float gloss = 0.02;
  uint tag;
  if (a < road) {
    tag = 1u;
    float q = fbm(street * vec2(3.0, 9.0)), big = fbm(street * vec2(0.08, 0.5) + seed);
    c = vec3(0.23, 0.23, 0.24) * style.z * (0.75 + 0.35 * q + 0.25 * big);
    float patch = smoothstep(0.62, 0.7, fbm(street * vec2(0.15, 0.6) + seed * 3.0));
    c = mix(c, vec3(0.13), 0.5 * patch);
    c *= 1.0 - 0.35 * band(noise(vec2(s * 0.35, d * 0.35 + seed)) - 0.5, 0.012);
    float line = band(a - 3.62, 0.075);
    line = max(line, band(d, 0.075) * step(fract(s / style.x), style.y));
    for (int i = 0; i < 8; ++i) {
      float x = s - crossings[i];
      if (abs(x) > 6.0) continue;
      if (abs(x) < 1.7) line = a < road - 0.4 ? step(0.5, fract(d)) : 0.0;
      else if (abs(x + 3.4) < 0.22 && d < 0.0 && d > -3.6) line = 1.0;
      else if (abs(x - 3.4) < 0.22 && d > 0.0 && d < 3.6) line = 1.0;
    }
    float wear = 0.6 + 0.4 * smoothstep(0.25, 0.6, fbm(street * 5.0));
    c = mix(c, vec3(0.86, 0.86, 0.82) * wear, line * 0.95);
    if (line > 0.5) tag = 24u;
    gloss = 0.08 + wet * 0.8;
    if (wet > 0.0) {
      float puddle = smoothstep(0.45, 0.6, fbm(street * vec2(0.25, 0.5) + seed * 5.0));
      vec3 r = reflect(normalize(world - eye), n);
      c *= 1.0 - 0.4 * wet;
      c = mix(c, fog_color * (0.6 + 0.4 * r.z), wet * puddle * 0.45 * pow(1.0 - max(r.z, 0.0), 3.0));
    }
  } else if (a < walk) {
    tag = 2u;
    vec2 t = fract(street / vec2(0.9, 0.8));
    c = vec3(0.56, 0.54, 0.51) * (0.85 + 0.25 * fbm(street * 4.0));
    c *= 0.82 + 0.18 * step(0.03, t.x) * step(0.03, t.y);
    if (a < road + 0.28) c = vec3(0.5) * (0.9 + 0.2 * noise(street * 8.0));   // kerb stone
    c *= 1.0 - 0.25 * wet;
  } else {
    tag = 10u;
    float dry = clamp(fbm(street * 0.35 + seed) + style.w, 0.0, 1.0);
    c = mix(vec3(0.17, 0.26, 0.09), vec3(0.33, 0.30, 0.17), dry) * (0.7 + 0.6 * fbm(street * 6.0));
  }
  pixel = vec4(fogged(lit(c, n, world, gloss), world), 1);
  ids_out = uvec2(tag, 0u);
}
