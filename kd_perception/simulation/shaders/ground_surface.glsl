// What the strips of the ground share; each strip adds its own main().
in vec3 world;
in vec2 street;                         // s, d
layout(location = 0) out vec4 pixel;
layout(location = 1) out uvec2 ids_out;
uniform vec4 widths;                    // half road left, right; walk left, right
uniform vec4 style;                     // dash length, dash share, asphalt tone, dryness of grass
const vec3 UP = vec3(0, 0, 1);

float half_road() {
  return street.y > 0.0 ? widths.x : widths.y;
}

void finish(vec3 c, float gloss, uint tag) {
  pixel = vec4(fogged(lit(c, UP, world, gloss), world), 1);
  ids_out = uvec2(tag, 0u);
}
