// What every camera does: rain on the way, tone curve, grain.
uniform float grain, rain;
uniform vec2 jitter;                    // changes with every frame

vec3 developed(vec3 c, vec2 uv) {
  if (rain > 0.0) {
    vec2 p = uv * vec2(60.0, 5.0) + vec2(uv.y * 4.0, jitter.y);
    float streak = step(0.985 - 0.01 * rain, hash(floor(p) + floor(jitter)))
      * smoothstep(0.5, 0.0, abs(fract(p.x) - 0.5));
    c = mix(c, vec3(0.8) * max(max(fog_color.r, fog_color.g), 0.15), streak * 0.35 * rain);
  }
  c = c / (c + 0.9) * 1.65;
  return pow(clamp(c, 0.0, 1.0), vec3(1.0 / 1.25));
}

vec3 speck() {
  vec2 px = gl_FragCoord.xy + jitter;
  return vec3(hash(px * 0.731), hash(px * 0.517 + 3.0), hash(px * 0.913 + 7.0)) - 0.5;
}
