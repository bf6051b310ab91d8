// The camera: exposure, white balance, vignette, rain on the way, tone curve, sensor noise.
// Turned upside down, because images have their first row at the top.
in vec2 at;
uniform sampler2D scene;
uniform float exposure, grain, rain;
uniform vec3 balance;
uniform vec2 jitter;                    // changes with every frame
out vec4 pixel;

void main() {
  vec2 uv = vec2(at.x, -at.y);
  vec3 c = texture(scene, uv * 0.5 + 0.5).rgb;
  c *= exposure * balance * (1.0 - 0.11 * dot(uv, uv));
  if (rain > 0.0) {
    vec2 p = uv * vec2(60.0, 5.0) + vec2(uv.y * 4.0, jitter.y);
    float streak = step(0.985 - 0.01 * rain, hash(floor(p) + floor(jitter)))
      * smoothstep(0.5, 0.0, abs(fract(p.x) - 0.5));
    c = mix(c, vec3(0.8) * max(max(fog_color.r, fog_color.g), 0.15), streak * 0.35 * rain);
  }
  c = c / (c + 0.9) * 1.65;
  c = pow(clamp(c, 0.0, 1.0), vec3(1.0 / 1.25));
  vec2 px = gl_FragCoord.xy + jitter;
  vec3 speck = vec3(hash(px * 0.731), hash(px * 0.517 + 3.0), hash(px * 0.913 + 7.0)) - 0.5;
  pixel = vec4(clamp(c + grain * speck, 0.0, 1.0), 1);
}
